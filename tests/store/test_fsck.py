"""Each kind of damage is named by fsck: what, and which one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from memit_vc.objects import Commit, Patch
from memit_vc.repository import Repository
from tests.support.synthetic import fact, init, record


def _sql(repository: Repository, statement: str, *values: object) -> None:
    with sqlite3.connect(repository.root / "meta.db") as connection:
        assert connection.execute(statement, values).rowcount > 0


def _change_blob(repository: Repository, commit: Commit) -> str:
    path = repository.patch_path(commit.patches[0])
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return commit.patches[0]


def _remove_blob(repository: Repository, commit: Commit) -> str:
    repository.blobs.remove(commit.patches[0])
    return commit.patches[0]


def _commit_record(repository: Repository, commit: Commit) -> str:
    _sql(repository, "UPDATE commits SET json = replace(json, 'edit', 'exit') WHERE id = ?", commit.id)
    return commit.id


def _commit_garbage(repository: Repository, commit: Commit) -> str:
    _sql(repository, "UPDATE commits SET json = '[' WHERE id = ?", commit.id)
    return commit.id


def _commit_row(repository: Repository, commit: Commit) -> str:
    _sql(repository, "UPDATE commits SET message = 'other' WHERE id = ?", commit.id)
    return commit.id


def _commit_state(repository: Repository, commit: Commit) -> str:
    _sql(repository, "UPDATE commits SET state = ? WHERE id = ?", "0" * 64, commit.id)
    return commit.id


def _lost_change(repository: Repository, commit: Commit) -> str:
    _sql(repository, 'DELETE FROM changes WHERE "commit" = ?', commit.id)
    return commit.id


def _wrong_parent(repository: Repository, commit: Commit) -> str:
    _sql(repository, 'UPDATE parents SET parent = ? WHERE "commit" = ?', commit.id, commit.id)
    return commit.id


def _lost_columns(repository: Repository, commit: Commit) -> str:
    _sql(repository, "DELETE FROM patch_columns WHERE patch = ?", commit.patches[0])
    return commit.adds[0]


def _lost_bounds(repository: Repository, commit: Commit) -> str:
    _sql(repository, "DELETE FROM column_bounds")
    return commit.patches[0]


def _fact_record(repository: Repository, commit: Commit) -> str:
    _sql(repository, "UPDATE facts SET json = replace(json, 'City', 'Town')")
    return fact(1).id


def _fact_row(repository: Repository, commit: Commit) -> str:
    _sql(repository, "UPDATE facts SET target = 'elsewhere'")
    return fact(1).id


def _ref(repository: Repository, commit: Commit) -> str:
    _sql(repository, 'UPDATE refs SET "commit" = ?', "f" * 64)
    return "heads/main"


def _head(repository: Repository, commit: Commit) -> str:
    _sql(repository, "UPDATE meta SET value = 'heads/gone' WHERE key = 'head'")
    return "HEAD"


def _operation(repository: Repository, commit: Commit) -> str:
    _sql(repository, "UPDATE operations SET head_after = ? WHERE id = 2", "f" * 64)
    return "2"


def _manifest(repository: Repository, commit: Commit) -> str:
    _sql(repository, "UPDATE meta SET value = replace(value, 'F32', 'F16') WHERE key = 'manifest'")
    return "manifest"


def _quantum(repository: Repository, commit: Commit) -> str:
    _sql(repository, "UPDATE meta SET value = replace(value, '-40', '-41') WHERE key = 'weights'")
    return repository.weights()[0].name


def _shape(repository: Repository, commit: Commit) -> str:
    _sql(repository, "UPDATE meta SET value = replace(value, '\"d_in\":5', '\"d_in\":6') WHERE key = 'weights'")
    return repository.weights()[0].name


def _files(repository: Repository, commit: Commit) -> str:
    _sql(repository, "UPDATE meta SET value = '{\"config.json\": 3}' WHERE key = 'files'")
    return "files"


def _no_weights(repository: Repository, commit: Commit) -> str:
    _sql(repository, "DELETE FROM meta WHERE key = 'weights'")
    return "weights"


def _evaluation(repository: Repository, commit: Commit) -> str:
    state = repository.state_id(repository.state(commit.id))
    repository.put_evaluation(state, None, "tensors", "sha256", {repository.weights()[0].name: "no hash"})
    return state


@pytest.mark.parametrize(
    "damage",
    [
        _manifest,
        _quantum,
        _shape,
        _files,
        _no_weights,
        _evaluation,
        _change_blob,
        _remove_blob,
        _commit_record,
        _commit_garbage,
        _commit_row,
        _commit_state,
        _lost_change,
        _wrong_parent,
        _lost_columns,
        _lost_bounds,
        _fact_record,
        _fact_row,
        _ref,
        _head,
        _operation,
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Repository, Commit], str]) -> None:
    with init(tmp_path) as repository:
        made = record(repository, [fact(1)])
        assert repository.fsck() == []
        named = damage(repository, made)
        problems = repository.fsck()
        assert named in [problem.object for problem in problems], problems
        assert all(problem.message for problem in problems)


def test_without_full_the_bytes_are_not_read(tmp_path: Path) -> None:
    with init(tmp_path) as repository:
        made = record(repository, [fact(1)])
        _change_blob(repository, made)
        assert repository.fsck(quick=True) == []
        assert [p.kind for p in repository.fsck()] == ["blob"]


def test_a_look_inside_the_patches_can_be_added(plain_repository: Repository) -> None:
    made = record(plain_repository, [fact(1)])
    seen: list[Patch] = []

    def look(path: Path, patch: Patch) -> list[str]:
        assert path == plain_repository.patch_path(patch.id)
        seen.append(patch)
        return ["an entry is off the grid"]

    (problem,) = plain_repository.fsck(check_patch=look)
    assert (problem.kind, problem.object, problem.message) == ("patch", made.patches[0], "an entry is off the grid")
    assert seen == [plain_repository.patch(made.patches[0])]


def test_orphans_are_no_problem(plain_repository: Repository) -> None:
    plain_repository.blobs.put(b"left by a crash")
    assert plain_repository.fsck() == []


def test_a_damaged_database_page_is_found(tmp_path: Path) -> None:
    with init(tmp_path) as repository:
        for n in range(30):
            record(repository, [fact(n)])
    place = tmp_path / ".memitvc" / "meta.db"
    with sqlite3.connect(place) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_changes_column'").fetchone()
    data = bytearray(place.read_bytes())
    data[(page - 1) * 4096 + 100 : (page - 1) * 4096 + 3000] = bytes(2900)
    place.write_bytes(data)
    with Repository.open(tmp_path) as repository:
        assert "database" in {problem.kind for problem in repository.fsck()}
