"""One repository with statistics and a commit, made once; each test works in its own copy, which must be whole at the
end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.models import FACTS
from tests.places import Cli, Place, copy_of, make_place

FIRST, SECOND = FACTS[:2], FACTS[2:4]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A tiny Llama, statistics, and one commit of two facts. Not to be changed: see `place`."""
    sampled = {"context_templates": None, "template_length": 2, "n_templates": 1}
    made = make_place(tmp_path_factory.mktemp("finished"), **sampled)
    with Repository.open(made.work) as repository:
        commit_facts(repository, FIRST, message="Two facts")
    return made


@pytest.fixture
def place(finished: Place, tmp_path: Path) -> Iterator[Place]:
    made = copy_of(finished, tmp_path)
    yield made
    with Repository.open(made.work) as repository:
        assert fsck(repository)[0] == []


@pytest.fixture
def cli(place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`memitvc` on `place`, as somebody called Ada."""
    monkeypatch.setenv("LOGNAME", "ada")
    return Cli(place.work, capsys, monkeypatch)
