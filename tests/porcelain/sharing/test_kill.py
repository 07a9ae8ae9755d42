"""Kill a push, a pull or a clone at any step: nothing is ever half there, and the command, run again, completes it."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest

from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.remote.manifest import MANIFEST
from memit_vc.repository import Repository
from memit_vc.store.temporaries import is_temporary
from tests.support.killing_transfers import fork_server, run
from tests.support.remotes import World, edited

MOMENTS = 6


def child(arguments: list[str], told: Path, steps: int | None = None) -> int | None:
    process = fork_server().Process(target=run, args=(arguments, steps, str(told)))
    process.start()
    process.join()
    return process.exitcode


def moments(whole: int, every: bool) -> list[int]:
    """All steps, or the first, the last two, and some between."""
    between = range(1, whole - 2)
    chosen = random.Random(0).sample(between, min(len(between), MOMENTS - 3))
    return list(range(whole)) if every else sorted({0, whole - 2, whole - 1, *chosen})


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["some moments", "every moment"])
def every(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.param
    return chosen


def steps_of(told: Path) -> int:
    return int(told.read_text())


def restored(pairs: list[tuple[Path, Path]]) -> None:
    for saved, place in pairs:
        shutil.rmtree(place, ignore_errors=True)
        if saved.exists():
            shutil.copytree(saved, place)


def saved(tmp_path: Path, *places: Path) -> list[tuple[Path, Path]]:
    pairs = [(tmp_path / f"saved-{n}", place) for n, place in enumerate(places)]
    for target, place in pairs:
        if place.exists():
            shutil.copytree(place, target)
    return pairs


def head_of(directory: Path, ref: str) -> str | None:
    with Repository.open(directory) as repository:
        assert fsck(repository)[0] == []
        return repository.refs().get(ref)


@pytest.mark.parametrize("first", [True, False], ids=["the first push", "a later push"])
def test_a_killed_push(world: World, tmp_path: Path, first: bool, every: bool) -> None:
    if first:
        shutil.rmtree(world.shared)
    with Repository.open(world.work) as repository:
        before = repository.head().commit
        after = before if first else edited(repository, 1).id
        parent = None if first else before
    pairs = saved(tmp_path, world.work, world.shared)
    command, told = ["push", "-C", str(world.work)], tmp_path / "told"
    assert child(command, told) == 0
    for step in moments(steps_of(told), every):
        restored(pairs)
        assert child(command, told, step) == -signal.SIGKILL
        # whoever reads now gets the old publication or the new one, whole
        there = read_by_another(world, tmp_path)
        assert there in (parent, after)
        assert head_of(world.work, "remotes/origin/main") in (parent, after, None)
        assert child(command, told) == 0
        assert read_by_another(world, tmp_path) == after
        assert [path for path in world.shared.rglob("*") if is_temporary(path)] == []
        assert head_of(world.work, "remotes/origin/main") == after


def read_by_another(world: World, tmp_path: Path) -> str | None:
    """Where main is for a repository that fetches now; None where nothing is published."""
    from memit_vc.porcelain.sharing.fetch import fetch

    if not (world.shared / MANIFEST).exists():
        return None
    reader = tmp_path / "reader"
    shutil.rmtree(reader, ignore_errors=True)
    shutil.copytree(world.empty, reader)
    with Repository.open(reader) as repository:
        fetch(repository)
        assert fsck(repository) == ([], 0)
        return repository.refs()["remotes/origin/main"]


def test_a_killed_pull(world: World, tmp_path: Path, every: bool) -> None:
    with Repository.open(world.work) as repository:
        before, after = head_of(world.empty, "heads/main"), repository.head().commit
    pairs = saved(tmp_path, world.empty)
    command, told = ["pull", "-C", str(world.empty)], tmp_path / "told"
    assert child(command, told) == 0
    assert head_of(world.empty, "heads/main") == after
    for step in moments(steps_of(told), every):
        restored(pairs)
        assert child(command, told, step) == -signal.SIGKILL
        assert head_of(world.empty, "heads/main") in (before, after)
        assert child(command, told) == 0
        assert head_of(world.empty, "heads/main") == after
        assert list(world.empty.rglob("cache/incoming/*")) == []


def test_a_killed_pull_goes_on_where_it_was(world: World, tmp_path: Path) -> None:
    """What was downloaded before the kill is not downloaded again."""
    from memit_vc.porcelain.sharing.pull import pull

    command, told = ["pull", "-C", str(world.empty)], tmp_path / "told"
    pairs = saved(tmp_path, world.empty)
    assert child(command, told) == 0
    restored(pairs)
    objects = len([path for path in (world.shared / "objects").rglob("*") if path.is_file()])
    step = 0
    kept: list[Path] = []
    while len(kept) < 3:
        step += 1
        restored(pairs)
        assert child(command, told, step) == -signal.SIGKILL
        kept = [path for path in world.empty.rglob("cache/incoming/*") if len(path.name) == 64]
    with Repository.open(world.empty) as repository:
        assert pull(repository).fetched.objects == objects - len(kept)
        assert fsck(repository) == ([], 0)


def test_a_killed_clone(world: World, tmp_path: Path, every: bool) -> None:
    copy = tmp_path / "copy"
    command = ["clone", "-C", str(tmp_path), str(world.shared), "copy", "--base", str(world.base)]
    told = tmp_path / "told"
    assert child(command, told) == 0
    whole, after = steps_of(told), head_of(world.work, "heads/main")
    for step in moments(whole, every):
        shutil.rmtree(copy, ignore_errors=True)
        assert child(command, told, step) == -signal.SIGKILL
        if not (copy / ".memitvc").exists():
            assert child(command, told) == 0
        assert head_of(copy, "heads/main") == after


def test_a_push_done_by_hand_is_seen(world: World) -> None:
    """Both ends agree already, only the tracking ref was lost with the kill: the next push writes it down."""
    with Repository.open(world.work) as repository:
        assert "remotes/origin/main" not in repository.refs()
        assert push(repository).files == {}
        assert repository.refs()["remotes/origin/main"] == repository.head().commit
        assert fsck(repository) == ([], 0)
