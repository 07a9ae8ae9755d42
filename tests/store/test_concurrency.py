"""Several processes on one repository: one wins, the other is told, nobody waits for ever."""

from __future__ import annotations

import multiprocessing
import threading
import time
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

from memit_vc.errors import LockedError, RefMovedError
from memit_vc.objects import CommitId, RefUpdate
from memit_vc.porcelain.sharing.remotes import add_remote, remotes, remove_remote
from memit_vc.porcelain.upkeep.gc import collect_garbage
from memit_vc.repository import Repository
from memit_vc.store.locks import locked
from tests.support.synthetic import fact, init, put_patch, record


def _race(directory: Path, number: int, old: CommitId, start: threading.Barrier, results: Queue[str]) -> None:
    """Try to move main from `old` to a commit of one's own, at the same moment as everybody else."""
    with Repository.open(directory) as repository:
        patch = put_patch(repository, [fact(number)])
        made = record(repository, [fact(number)], patch=patch, parents=[old], branch=None, message=f"racer {number}")
        start.wait()
        try:
            repository.publish(
                verb="commit", description=f"racer {number}", refs=[RefUpdate("heads/main", old, made.id)]
            )
        except RefMovedError as error:
            results.put("moved" if "heads/main" in error.message else error.message)
        else:
            results.put(made.id)


def test_of_two_processes_exactly_one_moves_the_ref(tmp_path: Path) -> None:
    with init(tmp_path) as repository:
        old = repository.head().commit
    context = multiprocessing.get_context("fork")
    racers = 4
    start, results = context.Barrier(racers), context.Queue()
    children = [context.Process(target=_race, args=(tmp_path, n, old, start, results)) for n in range(racers)]
    for child in children:
        child.start()
    found = sorted(results.get(timeout=60) for _ in children)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert found.count("moved") == racers - 1
    with Repository.open(tmp_path) as repository:
        assert repository.head().commit in found
        assert [o.verb for o in repository.operations()] == ["commit", "init"]
        assert repository.fsck() == []


def _name(directory: Path, number: int, start: threading.Barrier) -> None:
    with Repository.open(directory) as repository:
        start.wait()
        add_remote(repository, f"remote{number}", f"there-{number}", directory=directory)


def test_remotes_that_are_added_at_the_same_moment_all_stay(tmp_path: Path) -> None:
    init(tmp_path).close()
    context = multiprocessing.get_context("fork")
    racers = 6
    start = context.Barrier(racers)
    children = [context.Process(target=_name, args=(tmp_path, number, start)) for number in range(racers)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    with Repository.open(tmp_path) as repository:
        assert list(remotes(repository)) == [f"remote{number}" for number in range(racers)]
        tracking = RefUpdate("remotes/remote0/main", None, repository.head().commit)
        repository.publish(verb="fetch", description="remote0", refs=[tracking])
        operations = repository.operations()
        with locked(repository.root / "cache" / "config.lock", wait=0, busy="", hint=""):
            repository.database.busy_seconds = 0.05
            with pytest.raises(LockedError, match=r"another command is changing config\.toml"):
                remove_remote(repository, "remote0")
        assert "remote0" in remotes(repository)
        assert list(repository.refs("remotes/remote0/")) == ["remotes/remote0/main"]
        assert repository.operations() == operations
        repository.database.busy_seconds = 30.0
        remove_remote(repository, "remote0")
        assert (repository.refs("remotes/"), "remote0" in remotes(repository)) == ({}, False)
        assert repository.fsck() == []


def test_a_busy_database_is_reported(tmp_path: Path) -> None:
    init(tmp_path).close()
    with Repository.open(tmp_path) as holder, Repository.open(tmp_path, busy_seconds=0.1) as waiter:
        with holder.database.write():
            assert waiter.refs() == holder.refs()  # readers never wait
            with pytest.raises(LockedError) as caught:
                record(waiter, [fact(1)])
            assert str(tmp_path) in caught.value.message
            assert caught.value.exit_code == 11
        record(waiter, [fact(1)])
        assert holder.fsck() == []


def test_a_reader_sees_one_moment(tmp_path: Path) -> None:
    with init(tmp_path) as repository, repository.database.read() as snapshot:
        from memit_vc.store.rows_refs import load_refs

        before = load_refs(snapshot)
        with Repository.open(tmp_path) as other:
            record(other, [fact(1)])
        assert load_refs(snapshot) == before
    with Repository.open(tmp_path) as repository:
        assert repository.refs() != before
        assert repository.fsck() == []


def test_a_repository_serves_several_threads(plain_repository: Repository) -> None:
    made = [record(plain_repository, [fact(n)]) for n in range(5)]
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(20):
                assert len(plain_repository.live_facts(made[-1].id)) == 5
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_gc_spares_the_blob_of_a_commit_that_is_computing(tmp_path: Path) -> None:
    with init(tmp_path) as repository:
        patch = put_patch(repository, [fact(1)])
        with Repository.open(tmp_path) as other:
            assert collect_garbage(other).blobs == 0
        record(repository, [fact(1)], patch=patch)
        assert repository.fsck() == []


@pytest.mark.parametrize("ahead", [7200.0, -7200.0], ids=["the clock is ahead", "the files are ahead"])
def test_gc_spares_what_is_new_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    with init(tmp_path) as repository:
        now = time.time
        patch = put_patch(repository, [fact(1)])
        monkeypatch.setattr(time, "time", lambda: now() + ahead)
        with Repository.open(tmp_path) as other:
            assert collect_garbage(other).blobs == 0
        record(repository, [fact(1)], patch=patch)
        assert repository.fsck() == []


def test_gc_takes_what_a_writer_left_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with init(tmp_path) as repository:
        put_patch(repository, [fact(1)])
        now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 7200)
    with Repository.open(tmp_path) as repository:
        assert collect_garbage(repository).blobs == 3
        assert list((repository.root / "unfinished").iterdir()) == []
        assert repository.fsck() == []


def test_head_is_never_on_a_branch_that_is_gone(tmp_path: Path) -> None:
    """One command deletes a branch while another one goes there: whoever comes second is told."""
    with init(tmp_path) as repository:
        made = record(repository, [fact(1)])
        with pytest.raises(RefMovedError, match="on branch 'gone', which is gone"):
            repository.publish(verb="switch", description="late", head="heads/gone")
        with pytest.raises(RefMovedError, match="on branch 'main', which is gone"):
            repository.publish(verb="branch", description="late", refs=[RefUpdate("heads/main", made.id, None)])
        assert (repository.head().branch, repository.head().commit) == ("main", made.id)
        assert repository.fsck() == []
