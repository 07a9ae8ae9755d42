"""Fixtures of all folders, and Hypothesis profiles.

What is costly is made once per run. Tests get copies, and a copy must be whole when its test is done with it. Imports
that load torch stand inside the fixtures, so that a run of light tests stays quick.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from memit_vc.repository import Repository
from tests.support import synthetic

if TYPE_CHECKING:
    from tests.support.algebra.world import World
    from tests.support.browser import Browse, Shown
    from tests.support.hub.loopback import Loopback
    from tests.support.opened import Opened
    from tests.support.places import Cli, Place
    from tests.support.remotes import World as RemoteWorld

pytest.register_assert_rewrite("tests.support.algebra.fixtures", "tests.support.remotes")

if sys.version_info < (3, 11):  # pathlib keeps functions of os there: tests that replace them would not be heard

    def _asked_anew(name: str) -> Any:
        return staticmethod(lambda *arguments, **named: getattr(os, name)(*arguments, **named))

    for _name in ("link", "mkdir", "rename", "replace", "rmdir", "unlink"):
        setattr(pathlib._NormalAccessor, _name, _asked_anew(_name))

_QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("default", max_examples=200, deadline=None, suppress_health_check=_QUIET)
settings.register_profile("nightly", max_examples=10_000, deadline=None, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path) -> Iterator[None]:
    """What tests, and the commands that they start, keep for their user is nobody's concern."""
    with pytest.MonkeyPatch.context() as patch:  # its own: the fixture's is to be undone before other fixtures are
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
        yield


@pytest.fixture
def plain_repository(tmp_path: Path) -> Iterator[Repository]:
    """A new repository with synthetic weights (see tests.support.synthetic); fsck must find nothing at the end."""
    with synthetic.init(tmp_path / "work") as repository:
        yield repository
        assert repository.fsck() == []


@pytest.fixture(scope="session")
def algebra_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One tiny base for all tests of the algebra; see `world` and `repository` in tests.support.algebra.fixtures."""
    from tests.support.algebra.world import World

    return World.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def pushed_world(tmp_path_factory: pytest.TempPathFactory) -> RemoteWorld:
    """A history, the directory that it was pushed to, an empty repository; see `world` in tests.support.remotes."""
    from tests.support.remotes import World

    return World.make(tmp_path_factory.mktemp("remotes"))


@pytest.fixture(scope="session")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`histories(kind)`: a repository with commits of random factors; the kinds are in tests.support.histories."""
    from transformers.utils import logging

    from tests.support.histories import history

    logging.disable_progress_bar()
    root = tmp_path_factory.mktemp("histories")

    def made(kind: str) -> Path:
        return root / kind / "work" if (root / kind).is_dir() else history(root / kind, kind)

    return made


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.models import tiny

    return tiny("llama", tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def with_history(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """Three commits of two facts, each computed with the earlier ones in view."""
    from tests.support.batches import committed

    return committed(tmp_path_factory.mktemp("history") / "work", tiny_llama)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """The same batches as a plain MEMIT history."""
    from tests.support.batches import committed

    return committed(tmp_path_factory.mktemp("plain") / "work", tiny_llama, history=False)


@pytest.fixture
def opened(tmp_path: Path, histories: Callable[[str], Path]) -> Iterator[Opened]:
    """`opened(directory)`, or `opened(kind)` of `histories`: a copy, open; it must be whole at the end."""
    repositories: list[Repository] = []

    def copied(source: Path | str) -> Repository:
        target = tmp_path / f"repository-{len(repositories)}"
        shutil.copytree(source if isinstance(source, Path) else histories(source), target)
        repositories.append(Repository.open(target))
        return repositories[-1]

    yield copied
    for repository in repositories:
        assert repository.fsck() == []
        # the record of a patch that was kept and then given up waits for gc
        assert [each for each in repository.orphans() if b'"parent"' not in repository.blobs.read(each)] == []
        repository.close()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A tiny Llama, statistics, and one commit of two facts. Not to be changed: see `place`."""
    from memit_vc.porcelain.editing.commit import commit_facts
    from tests.support.places import FIRST, make_place

    sampled = {"context_templates": None, "template_length": 2, "n_templates": 1}
    made = make_place(tmp_path_factory.mktemp("finished"), **sampled)
    with Repository.open(made.work) as repository:
        commit_facts(repository, FIRST, message="Two facts")
    return made


@pytest.fixture
def place(finished: Place, tmp_path: Path) -> Iterator[Place]:
    """A copy of `finished`, which must be whole at the end."""
    from memit_vc.porcelain.upkeep.fsck import fsck
    from tests.support.places import copy_of

    made = copy_of(finished, tmp_path)
    yield made
    with Repository.open(made.work) as repository:
        assert fsck(repository)[0] == []


@pytest.fixture
def cli(place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`memitvc` on `place`, as somebody called Ada."""
    from tests.support.places import Cli

    monkeypatch.setenv("LOGNAME", "ada")
    return Cli(place.work, capsys, monkeypatch)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Loopback]:
    """A loopback Hub of one's own."""
    from tests.support.hub.loopback import Loopback

    made = Loopback(tmp_path / "hub")
    yield made
    made.close()


@pytest.fixture
def client(hub: Loopback, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    """The Hub, with huggingface_hub of this process pointed at it as ada, by plain LFS.

    The client reads HF_ENDPOINT when it is first imported, which in this process has happened long ago.
    """
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_ada")
    return hub


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless browser; the test is skipped where there is none."""
    from tests.support.browser import started

    with started() as browser:
        yield browser


@pytest.fixture
def browse(chromium: Any) -> Iterator[Browse]:
    """`browse(path or address, scheme, width)`."""
    from tests.support.browser import Shown

    with ExitStack() as stack:

        def opened(where: Path | str, scheme: str = "light", width: int = 1200) -> Shown:
            context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(120_000)
            return Shown(page, where)

        yield opened
