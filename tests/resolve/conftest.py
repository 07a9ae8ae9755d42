"""A repository on a tiny model with real commits, copied for each test that writes to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from memit_vc.hparams import MEMITHyperParams
from memit_vc.objects import Fact
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import LoadedModel, load_model
from memit_vc.porcelain.setup import init
from memit_vc.repository import Repository
from tests.models import FACTS, SENTENCES, hparams_for, load, tiny

BATCHES = (FACTS[0:2], FACTS[2:4], FACTS[4:6])
Opened = Callable[[Path], Repository]


def start(directory: Path, base: Path, **changes: object) -> Path:
    """A repository on `base` with hyperparameters for a tiny model."""
    directory.mkdir(parents=True)
    text = directory / "corpus.txt"
    text.write_text("\n".join(SENTENCES), encoding="utf-8")
    hparams = directory / "hparams.yaml"
    values: MEMITHyperParams = hparams_for(load(base), **{"mom2_update_weight": 50.0, **changes})
    hparams.write_text(values.replace(device="cpu").to_yaml(), encoding="utf-8")
    init(str(base), directory=directory, hparams=hparams, corpus=str(text), health=str(text))
    return directory


def commit_all(repository: Repository, batches: Sequence[Sequence[Fact]], loaded: LoadedModel | None = None) -> None:
    loaded = loaded or load_model(repository)
    for number, batch in enumerate(batches, start=1):
        commit_facts(repository, batch, message=f"batch {number}", scores=False, loaded=loaded)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("llama", tmp_path_factory.mktemp("resolve") / "base")


@pytest.fixture(scope="session")
def with_history(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """Three commits of two facts, each computed with the earlier ones in view."""
    directory = start(tmp_path_factory.mktemp("history") / "work", base)
    with Repository.open(directory) as repository:
        commit_all(repository, BATCHES)
    return directory


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """The same batches as a plain MEMIT history."""
    directory = start(tmp_path_factory.mktemp("plain") / "work", base, history=False)
    with Repository.open(directory) as repository:
        commit_all(repository, BATCHES)
    return directory


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """`opened(directory)`: a copy of a repository, open; it must be whole at the end."""
    repositories: list[Repository] = []

    def copied(directory: Path) -> Repository:
        target = tmp_path / f"copy-{len(repositories)}"
        shutil.copytree(directory, target)
        repositories.append(Repository.open(target))
        return repositories[-1]

    yield copied
    for repository in repositories:
        assert repository.fsck() == []
        repository.close()
