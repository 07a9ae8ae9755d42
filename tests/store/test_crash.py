"""Kill the process at every durable step of init and publish: all or nothing, and the next command works."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from pathlib import Path

from memit_vc.objects import RefUpdate
from memit_vc.porcelain.upkeep.gc import collect_garbage
from memit_vc.repository import Repository
from memit_vc.store.files import check_new_file, write_atomic
from memit_vc.store.temporaries import is_temporary
from tests.support.killing_steps import run_until_killed
from tests.support.synthetic import fact, init, record


def test_init_is_all_or_nothing(tmp_path: Path) -> None:
    whole = 0

    def check(step: int) -> None:
        nonlocal whole
        place = tmp_path / "work" / ".memitvc"
        if place.exists():
            whole += 1
            with Repository.open(tmp_path / "work") as repository:
                assert repository.fsck() == []
                assert repository.head().branch == "main"
            place.rename(tmp_path / f"finished-{step}")

    steps = run_until_killed(lambda: init(tmp_path / "work").close(), check)
    assert steps > 30
    assert whole >= 1
    # what killed runs left beside it went with the next ones
    left = [path for path in (tmp_path / "work").iterdir() if is_temporary(path)]
    init(tmp_path / "work").close()
    assert [path.name for path in (tmp_path / "work").iterdir()] == [".memitvc"]
    assert len(left) <= 1


def test_publish_is_all_or_nothing(tmp_path: Path) -> None:
    with init(tmp_path) as repository:
        first = record(repository, [fact(1)])
    seen: set[bool] = set()

    def work() -> None:
        with Repository.open(tmp_path) as repository:
            record(repository, [fact(2), fact(3)], message="second")

    def check(step: int) -> None:
        with Repository.open(tmp_path) as repository:
            assert repository.fsck() == []
            head = repository.head().commit
            seen.add(head != first.id)
            if head != first.id:
                assert repository.operations()[0].refs_after["heads/main"] == head
                assert repository.commit(head).message == "second"
                assert len(repository.live_facts(head)) == 3
                repository.undo()
            else:
                assert len(repository.live_facts(head)) == 1
            collect_garbage(repository, grace=0, keep_operations=0)
            assert repository.orphans() == []
            assert not any(is_temporary(path) for path in repository.root.rglob("*"))
            assert repository.fsck() == []

    steps = run_until_killed(work, check)
    assert steps > 15
    assert seen == {True, False}


def test_gc_killed_anywhere_never_loses_a_needed_blob(tmp_path: Path) -> None:
    with init(tmp_path) as repository:
        root = repository.head().commit
        first = record(repository, [fact(1)])

    def work() -> None:
        with Repository.open(tmp_path) as repository:
            collect_garbage(repository, grace=0, keep_operations=1)

    def check(step: int) -> None:
        with Repository.open(tmp_path) as repository:
            assert repository.fsck() == []
            assert repository.head().commit == first.id
            record(repository, [fact(100 + step)], branch="side", parents=[root])
            tip = repository.refs()["heads/side"]
            repository.publish(verb="branch", description="drop", refs=[RefUpdate("heads/side", tip, None)])
            repository.publish(verb="tag", description="t", refs=[RefUpdate(f"tags/{step}", None, first.id)])

    assert run_until_killed(work, check) > 10


def test_a_torn_write_ahead_log_is_rolled_back(tmp_path: Path) -> None:
    """The machine stops in the middle of the database's own commit: the log's tail is garbage."""
    with init(tmp_path) as repository:
        first = record(repository, [fact(1)])
        repository.close()
        keep = sqlite3.connect(repository.root / "meta.db")  # holds the log open, so that it is not merged
        keep.execute("SELECT count(*) FROM commits").fetchone()
        journal = (repository.root / "journal").read_bytes()  # its line is written after the database's commit
        with Repository.open(tmp_path) as second:
            record(second, [fact(2)])
        log = repository.root / "meta.db-wal"
        data = log.read_bytes()
        copy = tmp_path / "copy"
        (copy / ".memitvc").mkdir(parents=True)
        for path in repository.root.iterdir():
            if path.is_dir():
                (copy / ".memitvc" / path.name).symlink_to(path)
            elif path.name != "meta.db-shm":
                (copy / ".memitvc" / path.name).write_bytes(path.read_bytes())
        (copy / ".memitvc" / "meta.db-wal").write_bytes(data[: len(data) - 2000] + os.urandom(1000))
        (copy / ".memitvc" / "journal").write_bytes(journal)
        (copy / ".memitvc" / "unfinished").unlink()
        (copy / ".memitvc" / "unfinished").mkdir()
        (newest,) = keep.execute("SELECT record FROM commits ORDER BY seq DESC LIMIT 1").fetchone()
        (copy / ".memitvc" / "unfinished" / "1.json").write_text(json.dumps([newest]))
        keep.close()
    with Repository.open(copy) as torn:
        assert torn.head().commit == first.id
        assert torn.fsck() == []


def test_kill_at_random_moments(tmp_path: Path) -> None:
    with init(tmp_path) as repository:
        repository.head()
    for attempt in range(10):
        child = os.fork()
        if child == 0:
            try:
                with Repository.open(tmp_path) as repository:
                    for n in range(50):
                        record(repository, [fact(1000 * attempt + n)], message=f"{attempt}.{n}")
            finally:
                os._exit(0)
        time.sleep(random.Random(attempt).uniform(0.0, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with Repository.open(tmp_path) as repository:
            assert repository.fsck() == []
            record(repository, [fact(1_000_000 + attempt)])


def test_a_new_file_is_whole_or_absent(tmp_path: Path) -> None:
    target, seen = tmp_path / "file", set[bool]()

    def check(_: int) -> None:
        seen.add(target.exists())
        assert not target.exists() or target.read_bytes() == b"whole"
        target.unlink(missing_ok=True)
        check_new_file(target)
        assert list(tmp_path.iterdir()) == []  # what killed writers left is gone

    run_until_killed(lambda: write_atomic(target, b"whole", replace=False), check)
    assert seen == {False, True}
