"""meta.db is an index: deleted, older, cut or without its log it is noticed, and made again from the other files."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memit_vc.errors import IntegrityError, LockedError, MemitVCError
from memit_vc.numerics.exact.patchfile import check_patch
from memit_vc.objects import BlobId, CommitId, JsonValue, RefUpdate, StatisticsId
from memit_vc.porcelain.upkeep import rebuild as upkeep
from memit_vc.porcelain.upkeep.gc import collect_garbage
from memit_vc.porcelain.upkeep.rebuild import rebuild
from memit_vc.repository import Repository
from memit_vc.store.journal import Entry, Journal
from memit_vc.store.journal_replay import Replayed
from memit_vc.store.records import Problem
from tests.support.killing_steps import run_until_killed
from tests.support.synthetic import fact, init, put_patch, record, travelling


def _begin(work: Path) -> None:
    """Commits, a removal, a branch, a tag, an undo, a patch that waits, what gc has taken, scores."""
    with init(work) as repository:
        first = record(repository, [fact(1), fact(2)], message="first")
        record(repository, [fact(3)], branch="gone", parents=[first.id])
        tip = repository.refs()["heads/gone"]
        repository.publish(verb="branch", description="drop", refs=[RefUpdate("heads/gone", tip, None)])
        collect_garbage(repository, grace=0, keep_operations=1)
        record(repository, [fact(4)], branch="side", parents=[first.id])
        record(repository, removes=first.adds[:1], kind="revert")
        patch = put_patch(repository, [fact(5)], seed=5)
        repository.keep_patch(patch, [fact(5)], parent=first.id, message="late", details={"survived": 1.0})


def _go_on(work: Path) -> None:
    with Repository.open(work) as repository:
        made = record(repository, [fact(6)], message="more")
        repository.publish(verb="tag", description="v1", refs=[RefUpdate("tags/v1", None, made.id)])
        dense = put_patch(repository, [fact(7), fact(8)], dense=True, constraints=False)
        record(repository, [fact(7), fact(8)], patch=dense)
        repository.undo()
        repository.undo()
        repository.publish(verb="switch", description="side", head="heads/side")


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`begun` and `later`, the same repository before and after it went on."""
    root = tmp_path_factory.mktemp("rebuild")
    _begin(root / "begun")
    shutil.copytree(root / "begun", root / "later")
    _go_on(root / "later")
    return root


@pytest.fixture
def begun(templates: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(templates / "begun", tmp_path / "work"))


@pytest.fixture
def later(templates: Path, tmp_path: Path) -> Path:
    """`old.db` beside it is its database as it was."""
    shutil.copytree(templates / "later", tmp_path / "work")
    shutil.copyfile(templates / "begun" / ".memitvc" / "meta.db", tmp_path / "work" / "old.db")
    return tmp_path / "work"


def _picture(work: Path) -> dict[str, Any]:
    with Repository.open(work) as repository:
        commits = repository.stored_commits()
        patches = {p for c in commits for p in repository.commit(c).patches}
        return {
            "log": repository.log(commits),
            "order": commits,
            "refs": repository.refs(),
            "head": repository.head(),
            "operations": repository.operations(),
            "facts": {c: repository.live_facts(c) for c in commits},
            "states": {c: repository.state_id(repository.state(c)) for c in commits},
            "patches": repository.patches(patches),
            "kept": [repository.kept(patch) for patch in repository.kept_patches()],
        }


def _found(repository: Repository) -> tuple[list[Problem], int]:
    """As `fsck` finds it; the synthetic constraints cannot be read."""
    return repository.fsck(check_patch=check_patch), len(repository.orphans())


def _checked(work: Path) -> None:
    with Repository.open(work) as repository:
        assert _found(repository) == ([], 0)


def _delete(root: Path) -> None:
    (root / "meta.db").unlink()


def _empty(root: Path) -> None:
    (root / "meta.db").write_bytes(b"")


def _cut(root: Path) -> None:
    data = (root / "meta.db").read_bytes()
    (root / "meta.db").write_bytes(data[: len(data) // 2])


def _noise(root: Path) -> None:
    (root / "meta.db").write_bytes(b"no database " * 5000)


def _older(root: Path) -> None:
    shutil.copyfile(root.parent / "old.db", root / "meta.db")


@pytest.mark.parametrize("damage", [_delete, _empty, _cut, _noise, _older])
def test_a_lost_database_is_noticed_and_made_again(later: Path, damage: Callable[[Path], None]) -> None:
    root = later / ".memitvc"
    before = _picture(later)
    damage(root)
    with pytest.raises(MemitVCError) as caught:
        Repository.open(later)
    assert caught.value.exit_code == 12
    assert "fsck --rebuild" in str(caught.value.hint)
    made = rebuild(later)
    assert (made.made, made.recovered, made.gaps) == ("meta.db", (), ())
    assert _picture(later) == before
    _checked(later)
    with Repository.open(later) as repository:
        repository.undo()
        assert repository.head().branch == "main"
        assert record(repository, [fact(9)]).id == repository.head().commit
    _checked(later)


def test_a_lost_write_ahead_log_is_noticed(begun: Path, tmp_path: Path) -> None:
    root = begun / ".memitvc"
    keep = sqlite3.connect(root / "meta.db")  # holds the log open, so that it is not merged
    keep.execute("SELECT count(*) FROM commits").fetchone()
    _go_on(begun)
    before = _picture(begun)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy / ".memitvc", ignore=shutil.ignore_patterns("meta.db-*"))
    keep.close()
    with pytest.raises(IntegrityError, match="older than the journal"):
        Repository.open(copy)
    rebuild(copy)
    assert _picture(copy) == before
    _checked(copy)
    _checked(begun)


def test_lost_commits_are_named_and_kept(later: Path) -> None:
    """fsck opens an older database; gc does not touch what it cannot see."""
    root = later / ".memitvc"
    with Repository.open(later) as repository:
        lost = set(repository.stored_commits())
    before = _picture(later)
    _older(root)
    with Repository.open(later, damaged=True) as repository:
        lost -= set(repository.stored_commits())
        assert len(lost) == 2
        problems, orphans = _found(repository)
        assert {p.object for p in problems if p.kind == "lost commit"} == lost
        assert [p.object for p in problems if p.kind == "database"] == ["meta.db"]
        assert orphans == 0
        with pytest.raises(IntegrityError, match="older than the journal"):
            collect_garbage(repository, grace=0)
        with pytest.raises(IntegrityError, match="older than the journal"):
            repository.undo()
    rebuild(later)
    assert _picture(later) == before
    _checked(later)


def test_commits_that_only_the_objects_have(begun: Path) -> None:
    """A backup of database and journal was put back over newer objects: the newer commits get branches."""
    root = begun / ".memitvc"
    for name in ("meta.db", "journal"):
        shutil.copyfile(root / name, begun / name)
    with Repository.open(begun) as repository:
        old = repository.refs()
        made = record(repository, [fact(30)])
        newer = record(repository, [fact(31)])
    for name in ("meta.db", "journal"):
        shutil.copyfile(begun / name, root / name)
    with Repository.open(begun) as repository:
        problems, orphans = _found(repository)
        assert {(p.kind, p.object) for p in problems} == {("lost commit", made.id), ("lost commit", newer.id)}
        assert orphans == 0
        assert collect_garbage(repository, grace=0).commits == 0
    assert rebuild(begun).recovered == (f"recovered-{newer.id[:10]}",)
    _checked(begun)
    with Repository.open(begun) as repository:
        assert repository.refs() == {**old, f"heads/recovered-{newer.id[:10]}": newer.id}
        assert len(repository.live_facts(newer.id)) == 3
        assert repository.operations()[0].verb == "rebuild"


def test_without_database_and_journal_the_objects_tell_the_history(tmp_path: Path) -> None:
    with init(tmp_path) as repository:
        made = [record(repository, [fact(n)]) for n in range(3)]
        facts = repository.live_facts(made[-1].id)
    for name in ("meta.db", "journal"):
        (tmp_path / ".memitvc" / name).unlink()
    rebuild(tmp_path)
    _checked(tmp_path)
    with Repository.open(tmp_path) as repository:
        assert repository.head().commit == made[-1].id
        assert repository.head().branch == "main"
        assert repository.live_facts(made[-1].id) == facts


@pytest.mark.parametrize("lines", [0, 3])
def test_a_lost_journal_is_made_of_the_database(begun: Path, lines: int) -> None:
    before = _picture(begun)
    journal = begun / ".memitvc" / "journal"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:lines]))
    assert _picture(begun) == before  # reading goes on
    with Repository.open(begun) as repository:
        assert [p.kind for p in _found(repository)[0]] == ["journal"]
        with pytest.raises(IntegrityError, match="lacks lines"):
            repository.undo()
    assert rebuild(begun).made == "journal"
    assert _picture(begun) == before
    _checked(begun)
    _go_on(begun)
    before = _picture(begun)
    _delete(begun / ".memitvc")
    rebuild(begun)
    assert _picture(begun) == before
    _checked(begun)


def test_a_damaged_line_of_the_journal(begun: Path) -> None:
    before = _picture(begun)
    journal = begun / ".memitvc" / "journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"first", b"worst")
    journal.write_bytes(b"".join(lines))
    with Repository.open(begun) as repository:
        assert [p.kind for p in _found(repository)[0]] == ["journal"]
    made = rebuild(begun)
    assert len(made.gaps) == 1
    after = _picture(begun)
    assert {name: after["refs"][name] for name in before["refs"]} == before["refs"]
    assert after["facts"].keys() >= before["facts"].keys()
    _checked(begun)


def test_what_is_missing_is_named_and_nothing_is_changed(begun: Path) -> None:
    root = begun / ".memitvc"
    with Repository.open(begun) as repository:
        patch = repository.commit(repository.log([repository.head().commit])[-2].id).patches[0]
        repository.blobs.remove(patch)
    _delete(root)
    files = sorted(path.name for path in root.iterdir())
    with pytest.raises(IntegrityError, match=patch):
        rebuild(begun)
    assert sorted(path.name for path in root.iterdir()) == files


def test_scores_come_back(tmp_path: Path) -> None:
    scores: JsonValue = {"before": {}, "after": {}}
    with init(tmp_path) as repository:
        patch = put_patch(repository, [fact(1)])
        head = repository.head().commit
        from memit_vc.porcelain.record import draft
        from memit_vc.vcs.state import Change

        made = draft(
            repository,
            [head],
            Change(frozenset(patch.columns), frozenset()),
            kind="commit",
            message="m",
            patches=[patch.id],
        )
        state = repository.state_id(patch.columns)
        repository.publish(
            verb="commit",
            description="m",
            commits=[made],
            patches=[patch],
            facts=[fact(1)],
            refs=[RefUpdate("heads/main", head, made.id)],
            evaluations=[(state, made.id, "commit", made.id, scores)],
        )
        stored = repository.evaluations(state)
    _delete(tmp_path / ".memitvc")
    rebuild(tmp_path)
    _checked(tmp_path)
    with Repository.open(tmp_path) as repository:
        assert repository.evaluations(state) == stored == {("commit", CommitId(made.id)): scores}


def test_the_journal_is_lines_of_canonical_json(begun: Path) -> None:
    lines = (begun / ".memitvc" / "journal").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [each["n"] for each in found] == list(range(1, len(found) + 1))
    assert [each["previous"] for each in found[1:]] == [each["digest"] for each in found[:-1]]
    _checked(begun)


@pytest.mark.parametrize("damaged", [False, True])
def test_records_are_written_again_from_rows(begun: Path, damaged: bool) -> None:
    before = _picture(begun)
    with Repository.open(begun) as repository:
        records = [blob for blob in repository.blobs.iterate() if blob not in travelling(repository)]
        waiting = {BlobId(record) for record in Replayed.of(repository.journal.entries()).kept.values()}
        for blob in set(records) - waiting:
            path = repository.blobs.path(blob)
            path.unlink()
            if damaged:
                path.write_bytes(b"{}")
        assert {p.object for p in _found(repository)[0]} == set(records) - waiting
    rebuild(begun)
    assert _picture(begun) == before
    _checked(begun)


def _tag(repository: Repository, name: str) -> None:
    head = repository.head().commit
    repository.publish(verb="tag", description=name, refs=[RefUpdate(f"tags/{name}", None, head)])


def _bytes(root: Path) -> dict[str, bytes]:
    """Of the files, but not of those that SQLite has beside an open database."""
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file() and "-" not in path.name}


def test_a_rebuild_beside_a_writer_replaces_nothing(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "BUSY_SECONDS", 0.05)
    with Repository.open(begun) as repository:
        before = _bytes(repository.root)
        with repository.database.write(), pytest.raises(LockedError, match="another command has been writing to"):
            rebuild(begun)
        assert _bytes(repository.root) == before
    assert rebuild(begun).made == "meta.db"
    _checked(begun)


def test_a_writer_beside_a_rebuild_waits(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, replace = _picture(begun), upkeep._replace
    with Repository.open(begun, busy_seconds=0.05) as repository:
        statistics = repository.statistics()

        def busy(root: Path, made: Path) -> Path | None:
            with pytest.raises(LockedError, match="another command is making it again"):
                _tag(repository, "early")
            with pytest.raises(LockedError):
                repository.put_statistics(StatisticsId("0" * 64), {})
            with pytest.raises(LockedError):
                rebuild(begun)
            assert _picture(begun) == before  # reading goes on
            return replace(root, made)

        monkeypatch.setattr(upkeep, "_replace", busy)
        monkeypatch.setattr(upkeep, "BUSY_SECONDS", 0.05)
        rebuild(begun)
        assert (_picture(begun), repository.statistics()) == (before, statistics)
        _tag(repository, "late")
        assert "tags/late" in repository.refs()
    _checked(begun)


def test_a_change_counts_before_its_line_is_in_the_journal(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild between the transaction and the line would go by a journal that does not have the change."""
    append, tried = Journal.append, []

    def slow(journal: Journal, entry: Entry) -> None:
        if "operation" in entry.body and entry.body["operation"]["verb"] == "tag":
            with pytest.raises(LockedError):
                rebuild(begun)
            tried.append(entry)
        append(journal, entry)

    with monkeypatch.context() as patch, Repository.open(begun) as repository:
        patch.setattr(upkeep, "BUSY_SECONDS", 0.05)
        patch.setattr(Journal, "append", slow)
        _tag(repository, "kept")
    assert len(tried) == 1
    rebuild(begun)
    with Repository.open(begun) as repository:
        assert "tags/kept" in repository.refs()
        assert repository.operations()[0].verb == "tag"
    _checked(begun)


def test_who_has_the_damaged_database_open_does_not_write_into_it(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _picture(begun)
    monkeypatch.setattr(upkeep, "_overwritten", lambda place, made: False)  # as if it could not be opened
    with Repository.open(begun) as repository:
        rebuild(begun)
        for change in (repository.undo, lambda: _tag(repository, "lost")):
            with pytest.raises(IntegrityError, match="is another file now"):
                change()
    assert _picture(begun) == before
    _checked(begun)


def _tagging(work: Path, racer: int, start: threading.Barrier) -> None:
    start.wait()
    for number in range(5):
        with Repository.open(work) as repository:
            _tag(repository, f"{racer}-{number}")


def test_no_change_is_lost_beside_rebuilds(begun: Path) -> None:
    context = multiprocessing.get_context("fork")
    racers = range(3)
    start = context.Barrier(len(racers) + 1)
    children = [context.Process(target=_tagging, args=(begun, racer, start)) for racer in racers]
    for child in children:
        child.start()
    start.wait()
    while any(child.is_alive() for child in children):
        rebuild(begun)
        time.sleep(0.2)  # writers look ten times a second whether it is their turn
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    with Repository.open(begun) as repository:
        found = {name for name in repository.refs("tags/") if "-" in name}
        assert found == {f"tags/{racer}-{number}" for racer in racers for number in range(5)}
        assert [operation.verb for operation in repository.operations()].count("tag") == len(found)
    _checked(begun)


def _untouched(root: Path) -> None:
    pass


def _shortened(root: Path) -> None:
    lines = (root / "journal").read_bytes().splitlines(keepends=True)
    (root / "journal").write_bytes(b"".join(lines[:-2]))


@pytest.mark.parametrize("damage", [_untouched, _noise, _shortened])
def test_a_killed_rebuild_loses_nothing(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """The next command works, or says that the rebuild must be run again."""
    root = tmp_path / "work" / ".memitvc"
    with init(tmp_path / "work") as repository:
        record(repository, [fact(1)])
        _tag(repository, "first")
    names, refused = {"tags/first"}, 0

    def check(step: int) -> None:
        nonlocal refused
        try:
            with Repository.open(root.parent) as repository:
                _tag(repository, str(step))
        except IntegrityError as error:
            if "fsck --rebuild" not in str(error.hint):
                raise
            refused += 1
            rebuild(root.parent)
            with Repository.open(root.parent) as repository:
                _tag(repository, str(step))
        names.add(f"tags/{step}")
        with Repository.open(root.parent) as repository:
            assert set(repository.refs("tags/")) == names
            assert len(repository.operations()) == len(names) + 2
            assert repository.fsck() == []
        damage(root)

    damage(root)
    steps = run_until_killed(lambda: rebuild(root.parent), check)
    assert steps > 20
    assert (refused > 0) == (damage is not _untouched)
    rebuild(root.parent)
    _checked(root.parent)
