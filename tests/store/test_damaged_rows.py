"""Any value of any row may be damaged: fsck says so and goes on, everything else works or says what is damaged."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import select

from memit_vc.errors import IntegrityError, MemitVCError
from memit_vc.objects import BlobId, JsonValue, StatisticsId
from memit_vc.porcelain.upkeep.gc import collect_garbage
from memit_vc.porcelain.upkeep.rebuild import rebuild
from memit_vc.repository import Repository
from memit_vc.store import mend
from memit_vc.store.blobs import BlobStore
from memit_vc.store.schema import commits
from memit_vc.store.undo import undo
from tests.support.synthetic import fact, init, put_patch, record

TABLES = (
    *("meta", "commits", "parents", "changes", "facts", "patches", "patch_columns", "column_bounds"),
    *("commit_patches", "refs", "operations", "evaluations", "statistics", "kept", "alembic_version"),
)
BYTES = {"commits", "kept", "operations", "refs"}
"""Tables in which bytes are tried, too."""
ONLY_SHOWN = {"evaluations", "statistics"}
"""Of these fsck looks at the JSON."""
HEX = "a" * 64


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("damaged") / "work"
    with init(work) as repository:
        first = record(repository, [fact(1), fact(2)])
        record(repository, [fact(3)])
        record(repository, removes=first.adds[:1], kind="revert")
        late = put_patch(repository, [fact(5)], seed=5)
        repository.keep_patch(late, [fact(5)], parent=first.id, message="late", details={})
        state = repository.state_id(repository.state(first.id))
        repository.put_evaluation(state, first.id, "commit", first.id, {"before": {}, "after": {}})
        repository.put_statistics(StatisticsId("5" * 64), {"tokens": 3})
        repository.undo()
    return work


def _columns(work: Path, table: str) -> list[str]:
    with closing(sqlite3.connect(work / ".memitvc" / "meta.db")) as connection:
        return [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]


def _damage(work: Path, table: str, column: str, value: object) -> bool:
    """Replace the value in the last row; whether SQLite let it pass."""
    with closing(sqlite3.connect(work / ".memitvc" / "meta.db")) as connection, suppress(sqlite3.Error):
        last = f'(SELECT max(rowid) FROM "{table}")'  # noqa: S608
        done = connection.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = {last}', (value,))  # noqa: S608
        connection.commit()
        return done.rowcount == 1
    return False


def _uses(repository: Repository) -> Iterator[Callable[[], object]]:
    def every(call: Callable[..., object]) -> Callable[[], object]:
        return lambda: [call(commit) for commit in repository.stored_commits()]

    yield lambda: repository.log(repository.stored_commits())
    yield lambda: (
        repository.head(),
        repository.refs(),
        repository.base(),
        repository.weights(),
        repository.base_files(),
    )
    yield every(repository.live_facts)
    yield every(lambda commit: repository.patches(repository.commit(commit).patches))
    yield every(lambda commit: repository.bounds(repository.state(commit)))
    yield every(lambda commit: repository.constraints_of(repository.state(commit)))
    yield repository.operations
    yield repository.orphans
    yield repository.missing_objects
    yield lambda: repository.evaluations_of(repository.stored_commits(), "commit")
    yield repository.statistics
    yield lambda: [repository.kept(patch) for patch in repository.kept_patches(everything=True)]
    yield lambda: collect_garbage(repository, grace=0, dry_run=True)
    yield lambda: _undone(repository)


def _undone(repository: Repository) -> None:
    """An undo, which is itself undone by an error: nothing is written to the disk."""
    with suppress(ZeroDivisionError), repository.database.write() as connection:
        undo(connection, {})
        raise ZeroDivisionError


@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_value_is_an_error_and_no_traceback(template: Path, tmp_path: Path, table: str) -> None:
    work = Path(shutil.copytree(template, tmp_path / "work"))
    place = work / ".memitvc" / "meta.db"
    whole, tried = place.read_bytes(), 0
    for column in _columns(template, table):
        for value in ("{", b"\xff\xfe") if table in BYTES else ("{",):
            for path in place.parent.glob("meta.db*"):
                path.unlink()
            place.write_bytes(whole)
            if not _damage(work, table, column, value):
                continue
            tried += 1
            try:
                repository = Repository.open(work, damaged=True)
            except MemitVCError as error:
                assert error.exit_code == 12, (column, value)  # noqa: PT017
                continue
            with repository:
                if table not in ONLY_SHOWN or column == "json":
                    assert repository.fsck(), (column, value)
                for use in _uses(repository):
                    with suppress(MemitVCError):
                        use()
    assert tried


_SIDE = {"facts": {HEX: {"ES": 1.0, "NS": None}}, "total": {}, "error": {}, "perplexity": 20.5, "probe": "p"}
_WHY = {"leverage": {"0": 0.5}, "left": None, "agreement": None, "loss": 0.1}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("commit", [1]),
        ("commit", 3),
        ("commit", None),
        ("commit", {"before": {}}),
        ("commit", {"before": {}, "after": {}, "later": {}}),
        ("commit", {"before": {}, "after": []}),
        ("commit", {"before": {}, "after": {name: each for name, each in _SIDE.items() if name != "total"}}),
        ("commit", {"before": {}, "after": {**_SIDE, "more": 1}}),
        ("commit", {"before": {}, "after": {**_SIDE, "perplexity": "20.5"}}),
        ("commit", {"before": {}, "after": {**_SIDE, "facts": {HEX: {"ES": "all"}}}}),
        ("commit", {"before": {}, "after": {}, "why": {HEX: {**_WHY, "leverage": 1}}}),
        ("commit", {"before": {}, "after": {}, "why": {HEX: {"left": 1}}}),
        ("brought", {"after": {}}),
        ("brought", {"before": {}, "after": {HEX: 1}}),
        ("fact", [1.0]),
        ("fact", {"ES": "1.0"}),
        ("fact", {"ES": True}),
        ("perplexity", None),
        ("perplexity", "20.5"),
        ("answers", {"1": 2}),
        ("answers", [1, "2"]),
        ("asked", 1),
    ],
)
def test_a_measurement_of_another_form_is_an_error_for_every_reader(
    tmp_path: Path, kind: str, value: JsonValue
) -> None:
    with init(tmp_path) as repository:
        made = record(repository, [fact(1)])
        state = repository.state_id(repository.state(made.id))
        repository.put_evaluation(state, made.id, kind, made.id, value)
        for read in (
            lambda: repository.evaluations(state),
            lambda: repository.evaluations_of([made.id], kind),
            lambda: repository.evaluations_by_state(kind),
        ):
            with pytest.raises(IntegrityError, match=f"evaluation {made.id[:10]} is damaged: .*{kind}") as caught:
                read()
            assert "fsck --rebuild" in (caught.value.hint or "")
        (problem,) = repository.fsck()
        assert (problem.kind, problem.object) == ("evaluation", state)
        assert made.id[:10] in problem.message
    rebuild(tmp_path)
    with Repository.open(tmp_path) as repository:
        assert repository.fsck() == []
        assert repository.evaluations(state) == {}


@pytest.mark.parametrize("where", ["row", "record"])
def test_scores_of_another_form_do_not_hinder_a_rebuild(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    wrong: JsonValue = {"before": {}, "after": []}
    with init(tmp_path) as repository:
        made = record(repository, [fact(1)])
        state = repository.state_id(repository.state(made.id))
        repository.put_evaluation(state, made.id, "commit", made.id, wrong)
        with repository.database.read() as connection:
            blob = connection.execute(select(commits.c.record).where(commits.c.id == made.id)).scalar_one()
        repository.blobs.path(blob).unlink()
        if where == "record":  # an object that another version wrote
            with monkeypatch.context() as patched:
                patched.setattr(mend, "load_evaluations_of", lambda *_: {made.id: wrong})
                assert mend.mend_records(repository.database, repository.journal, repository.blobs) == 1
    rebuild(tmp_path)
    with Repository.open(tmp_path) as repository:
        assert repository.fsck() == []
        assert repository.evaluations(state) == {}
        assert repository.live_facts(made.id)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("commit", {"before": {}, "after": {}}),
        ("commit", {"before": {}, "after": {name: each for name, each in _SIDE.items() if name != "error"}}),
        ("perplexity", 1.5e308),
        ("commit", {"before": _SIDE, "after": {**_SIDE, "perplexity": None}, "why": {HEX: {**_WHY, "sink": True}}}),
        ("brought", {"before": {}, "after": {HEX: {"ES": 1}}}),
        ("fact", {"a score of another release": 1.0}),
        ("perplexity", 20),
        ("answers", []),
        ("asked", False),
        ("a kind of another release", "x"),
    ],
)
def test_a_measurement_is_read_as_it_was_written(plain_repository: Repository, kind: str, value: JsonValue) -> None:
    made = record(plain_repository, [fact(1)])
    state = plain_repository.state_id(plain_repository.state(made.id))
    plain_repository.put_evaluation(state, made.id, kind, made.id, value)
    assert plain_repository.evaluations(state) == {(kind, made.id): value}


def test_an_operation_is_read_as_it_was_written(template: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(template, tmp_path / "work"))
    assert _damage(work, "operations", "description", "undo operation 3: commit: edix")
    with Repository.open(work) as repository:
        with pytest.raises(MemitVCError, match="operation 5 is damaged"):
            repository.operations()
        with pytest.raises(MemitVCError, match="operation 5 is damaged"):
            repository.redo()
        assert {("operation", "5")} == {(p.kind, p.object) for p in repository.fsck()}


def test_an_object_that_gc_removes_meanwhile_is_no_problem(
    plain_repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = BlobId("e" * 64)
    iterate = BlobStore.iterate
    monkeypatch.setattr(BlobStore, "iterate", lambda store: iter([*iterate(store), gone]))
    assert plain_repository.fsck() == []
