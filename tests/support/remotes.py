"""A history on a tiny model, a directory that it was pushed to, and an empty repository on the same base; made once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from memit_vc.objects import Commit, Fact, RefUpdate, canonical_json
from memit_vc.porcelain.base import SeenBase
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.setup import start_repository
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.sharing.remotes import add_remote
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.histories import history, record


@dataclass(frozen=True)
class World:
    """`base` is the model; `work` has three commits and a revert, `empty` only the root, `shared` what was pushed."""

    base: Path
    work: Path
    empty: Path
    shared: Path

    @classmethod
    def make(cls, root: Path) -> World:
        work = history(root, "llama")
        world = cls(root / "base", work, root / "empty", root / "shared")
        with Repository.open(work) as repository:
            measure(repository)
            revert(repository, ["HEAD~1"])
            add_remote(repository, "origin", str(world.shared), directory=root)
            push(repository)
            repository.publish(
                verb="reset",
                description="as before the push",
                refs=[RefUpdate("remotes/origin/main", tip(repository), None)],
            )
            manifest, weights = repository.base(), repository.weights()
            description = repository.commit(repository.resolve("HEAD~4")).message
        seen = SeenBase.find(str(world.base), None)
        hparams = (root / "hparams.yaml").read_text()
        with start_repository(
            world.empty, seen, manifest, weights, hparams=hparams, description=description
        ) as repository:
            add_remote(repository, "origin", str(world.shared), directory=root)
        return world


def tip(repository: Repository) -> str:
    return repository.head().commit


def measure(repository: Repository) -> None:
    """Scores as `commit` records them, for the newest commit, and provenance of its own."""
    head = repository.head().commit
    side = {"facts": {}, "total": {"ES": 1.0, "PS": None}, "error": {"ES": 0.1}, "perplexity": 20.5, "probe": "0" * 64}
    for fact in repository.live_facts(head):
        side["facts"][fact.fact.id] = {"ES": 1.0, "NS": None, "nll": 0.25}  # type: ignore[index]
    state = repository.state_id(repository.state(head))
    repository.put_evaluation(state, head, "commit", head, {"before": side, "after": side, "why": {}})


@pytest.fixture
def world(pushed_world: World, tmp_path: Path) -> Iterator[World]:
    """Copies of all but the base; both repositories point at the copy of `shared`, and must be whole at the end."""
    copies = {name: tmp_path / name for name in ("work", "empty", "shared")}
    for name, target in copies.items():
        shutil.copytree(getattr(pushed_world, name), target)
    for name in ("work", "empty"):
        file = copies[name] / ".memitvc" / "config.toml"
        file.write_text(file.read_text().replace(str(pushed_world.shared), str(copies["shared"])))
    world = World(pushed_world.base, **copies)
    yield world
    for name in ("work", "empty"):
        with Repository.open(copies[name]) as repository:
            problems, orphans = fsck(repository)
            assert problems == []
            assert orphans == 0


def edited(repository: Repository, number: int) -> Commit:
    """One more commit, of a fact of its own; no model is asked."""
    fact = Fact(prompt=f"City {number} lies in", subject=f"City {number}", target=f"country {number}")
    record(repository, [fact], (1, 2), message=f"city {number}", seed=100 + number)
    return repository.commit(repository.head().commit)


def canonical(value: object) -> bytes:
    return canonical_json(value)  # type: ignore[arg-type]
