"""Long histories: what a verb does once does not become once for each commit. Work is counted, for seconds depend on
the machine (`python -m benchmarks long` has those).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from memit_vc.numerics.exact.patchfile import check_patch
from memit_vc.objects import Commit
from memit_vc.porcelain.history.facts import facts
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.verify import verify
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sets.squash import squash
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.sharing.remotes import add_remote
from memit_vc.repository import Repository
from memit_vc.store import files
from memit_vc.store.blobs import BlobStore
from tests.support.algebra.world import World, fact

SHORT, LONG = 4, 12


@pytest.fixture
def grown(algebra_world: World, tmp_path: Path) -> Iterator[Callable[[int], Repository]]:
    """Repositories of so many commits; each is checked at the end."""
    opened: list[Repository] = []

    def grow(commits: int) -> Repository:
        repository = algebra_world.copy(tmp_path / str(commits))
        opened.append(repository)
        for number in range(commits):
            algebra_world.commit(repository, [fact(number)], seed=number)
        return repository

    yield grow
    for repository in opened:
        with repository:
            assert repository.fsck(check_patch=check_patch) == []


@contextmanager
def counted(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """What happens in the block: SQL statements, states read, ids of states and of commits computed, objects read,
    directories and files synced.
    """
    work: Counter[str] = Counter()

    def counting(where: Any, name: str, what: str) -> None:
        real = getattr(where, name)

        def call(*given: Any, **named: Any) -> Any:
            work[what] += 1
            return real(*given, **named)

        patched.setattr(where, name, call)

    def statement(*_: object) -> None:
        work["statements"] += 1

    with monkeypatch.context() as patched:
        counting(Repository, "_state", "states")
        counting(Repository, "state_id", "state ids")
        counting(Commit, "to_json", "commit records")
        counting(BlobStore, "read", "objects")
        counting(files, "fsync", "syncs")
        event.listen(repository.database.engine, "before_cursor_execute", statement)
        try:
            yield work
        finally:
            event.remove(repository.database.engine, "before_cursor_execute", statement)


Verb = Callable[[Repository], object]
READING: dict[str, Verb] = {
    "facts": facts,
    "revert": lambda repository: revert(repository, ["HEAD~2"]),
    "squash": squash,
}


@pytest.mark.parametrize("name", READING)
def test_queries_and_states_are_as_many_for_a_long_history(
    grown: Callable[[int], Repository], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    work = {}
    for commits in (SHORT, LONG):
        repository = grown(commits)
        with counted(repository, monkeypatch) as work[commits]:
            READING[name](repository)
    for what in ("statements", "states", "state ids"):
        assert work[LONG][what] == work[SHORT][what], what
    for what in ("commit records", "objects"):  # at most one more for each commit more
        assert work[LONG][what] - work[SHORT][what] <= LONG - SHORT, what


def test_verify_of_a_recorded_checkout_looks_at_one_state(
    grown: Callable[[int], Repository], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work = {}
    for commits in (SHORT, LONG):
        repository = grown(commits)
        out = tmp_path / f"out-{commits}"
        checkout(repository, "HEAD~2", out)
        with counted(repository, monkeypatch) as work[commits]:
            assert verify(repository, out).commits == (repository.resolve("HEAD~2"),)
    assert work[LONG] == work[SHORT]
    assert work[LONG]["states"] == 1


def test_a_recorded_state_that_is_wrong_proves_nothing(grown: Callable[[int], Repository], tmp_path: Path) -> None:
    """The row says which commit to look at; what is printed follows from the history."""
    from sqlalchemy import update

    from memit_vc.errors import IntegrityError
    from memit_vc.store.schema import commits

    repository = grown(SHORT)
    out = tmp_path / "out"
    checkout(repository, "HEAD", out)
    head = repository.head().commit
    right = repository.recorded_states()[head]
    with repository.database.write() as connection:
        connection.execute(update(commits).where(commits.c.id == head).values(state="0" * 64))
    with pytest.raises(IntegrityError, match="recorded with another state"):
        verify(repository, out)
    with repository.database.write() as connection:
        connection.execute(update(commits).where(commits.c.id == head).values(state=right))


def test_a_first_push_reads_each_object_once_and_syncs_each_directory_once(
    grown: Callable[[int], Repository], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work, sent, directories = {}, {}, {}
    for commits in (SHORT, LONG):
        repository, remote = grown(commits), tmp_path / f"remote-{commits}"
        add_remote(repository, "origin", str(remote), directory=tmp_path)
        with counted(repository, monkeypatch) as work[commits]:
            made = push(repository, adapter=False)
        sent[commits], directories[commits] = made, sum(path.is_dir() for path in remote.rglob("*")) + 1
    for what in ("statements", "states", "state ids"):
        assert work[LONG][what] == work[SHORT][what], what
    assert work[LONG]["objects"] == sent[LONG].objects
    # a file each; a directory where it is made and, below the root, at the end; the root's six files each with its name
    assert work[LONG]["syncs"] == len(sent[LONG].files) + directories[LONG] + directories[LONG] - 1 + 6
