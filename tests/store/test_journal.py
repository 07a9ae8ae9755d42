"""The journal beside the database: appended under the lock, repaired by the next writer, read from its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from memit_vc.errors import IntegrityError, StorageError
from memit_vc.objects import RefUpdate
from memit_vc.repository import Repository
from memit_vc.store.journal import FIRST, Entry, Journal
from tests.support.synthetic import fact, record


def _tag(repository: Repository, name: str) -> None:
    head = repository.head().commit
    repository.publish(verb="tag", description=name, refs=[RefUpdate(f"tags/{name}", None, head)])


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal", busy_seconds=1)


def test_the_tail_is_the_last_whole_line(journal: Journal) -> None:
    assert journal.tail() is None
    entry = FIRST
    for size in (1, 100, 1 << 16, 1 << 18):  # longer than what is read at once
        entry = entry.next({"operation": "x" * size})
        journal.append(entry)
        assert journal.tail() == entry
    with journal.path.open("ab") as file:
        file.write(b'{"n":5,"did":')  # its writer died
    assert journal.tail() == entry
    journal.append(entry)  # it is there already
    with pytest.raises(IntegrityError, match="lacks lines"):
        journal.append(entry.next({}).next({}))
    after = entry.next({"operation": "after"})
    journal.append(after)
    assert journal.tail() == after
    assert [each.number for each in journal.entries()] == [1, 2, 3, 4, 5]
    journal.append(entry)  # the next writer appended it, and its own
    with pytest.raises(IntegrityError, match="its line 5 is another command's"):
        journal.append(entry.next({"operation": "lost"}))
    assert journal.tail() == after


def test_the_next_writer_appends_the_line_of_one_that_died(plain_repository: Repository) -> None:
    repository = plain_repository
    lines = repository.journal.path.read_bytes()
    _tag(repository, "a")
    whole = repository.journal.path.read_bytes()
    repository.journal.path.write_bytes(lines)
    assert repository.fsck() == []
    _tag(repository, "b")
    assert repository.journal.path.read_bytes().startswith(whole)
    assert len(repository.journal.entries()) == 3


def test_a_line_that_cannot_be_written_does_not_undo_what_was_done(
    plain_repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = plain_repository
    append, calls = Journal.append, []

    def full(journal: Journal, entry: object) -> None:
        calls.append(entry)
        if len(calls) == 2:  # the first settles what was before
            raise StorageError("no space left")
        append(journal, entry)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "append", full)
    made = record(repository, [fact(1)])
    assert repository.head().commit == made.id
    assert len(repository.journal.entries()) == 1
    _tag(repository, "a")
    assert len(repository.journal.entries()) == 3


def test_a_change_that_was_overtaken_is_no_success(
    plain_repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk whose locks hold on one machine only, another one may rebuild between a change and its line."""
    repository, append = plain_repository, Journal.append
    lines, first = repository.journal.path.read_bytes(), repository.journal.tail()
    assert first is not None

    def late(journal: Journal, entry: Entry) -> None:
        if entry.number == 2:
            append(journal, first.next({"rebuilt": "meanwhile"}))
        append(journal, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", late)
        with pytest.raises(IntegrityError, match="so this change is lost"):
            _tag(repository, "a")
    repository.journal.path.write_bytes(lines)


def test_a_journal_of_another_story_is_refused(plain_repository: Repository) -> None:
    repository = plain_repository
    lines = repository.journal.path.read_bytes()
    first = repository.journal.tail()
    assert first is not None
    repository.journal.append(first.next({"operation": "not ours"}))
    with pytest.raises(IntegrityError, match="older than the journal"):
        Repository.open(repository.directory)
    with pytest.raises(IntegrityError, match="older than the journal"):
        _tag(repository, "a")
    repository.journal.path.write_bytes(lines)


def test_commands_that_change_nothing_leave_no_line(plain_repository: Repository) -> None:
    repository = plain_repository
    before = repository.journal.path.read_bytes()
    repository.publish(verb="tag", description="nothing")
    repository.restore(1)
    repository.put_evaluation(repository.state_id(()), None, "fact", "a", {"es": 1.0})
    assert repository.journal.path.read_bytes() == before
    assert not list(repository.root.glob("unfinished/*"))
