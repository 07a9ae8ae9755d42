"""Rows of the history: commits, their parents, their changes of state."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, Integer, Table, and_, func, insert, literal, select

from memit_vc.errors import IntegrityError
from memit_vc.objects import BlobId, ColumnId, Commit, CommitId, StateId, canonical_json, short
from memit_vc.store.database import known, rows_with
from memit_vc.store.parsed import bad_row, parsed
from memit_vc.store.schema import changes, commit_patches, commits, parents


def load_commits(connection: Connection, ids: Collection[CommitId]) -> dict[CommitId, Commit]:
    """In the order of `ids`. IntegrityError names the first id that is not stored."""
    rows = rows_with(connection, select(commits.c.id, commits.c.json), commits.c.id, ids)
    found = {CommitId(row.id): parsed("commit", row.id, row.json, Commit.from_json, kind="commit") for row in rows}
    for wanted in ids:
        if wanted not in found:
            raise IntegrityError(f"commit {short(wanted)} is not in this repository", hint="Run `memitvc fsck`.")
    return {wanted: found[wanted] for wanted in ids}


def present(connection: Connection, ids: Collection[CommitId]) -> set[CommitId]:
    """Those of `ids` that are stored."""
    return known(connection, commits.c.id, ids)


def load_graph(connection: Connection) -> tuple[dict[CommitId, tuple[CommitId, ...]], dict[CommitId, int]]:
    """Parents of every commit, and its sequence number (parents before children)."""
    order = {CommitId(row.id): row.seq for row in connection.execute(select(commits.c.id, commits.c.seq))}
    collected: dict[CommitId, list[CommitId]] = {commit: [] for commit in order}
    for row in connection.execute(select(parents).order_by(parents.c.commit, parents.c.n)):
        if row.commit not in order or row.parent not in order:
            raise bad_row("commit", row.commit, "its parents are not in the table of commits")
        collected[CommitId(row.commit)].append(CommitId(row.parent))
    return {commit: tuple(found) for commit, found in collected.items()}, order


def first_parent_changes(connection: Connection, tip: CommitId) -> list[tuple[CommitId, ColumnId, str]]:
    """(commit, column, add or remove) along first parents, from the tip back to the root. One statement."""
    line = select(literal(tip).label("id"), literal(0, Integer).label("depth")).cte("line", recursive=True)
    # the number of commits bounds the walk, so that a damaged table with a cycle cannot hang it
    total = select(func.count()).select_from(commits).scalar_subquery()
    line = line.union_all(
        select(parents.c.parent, line.c.depth + 1).where(
            and_(parents.c.commit == line.c.id, parents.c.n == 0, line.c.depth < total)
        )
    )
    statement = (
        select(line.c.id, changes.c.column, changes.c.change)
        .join(changes, changes.c.commit == line.c.id)
        .order_by(line.c.depth, changes.c.column)
    )
    return [(CommitId(row[0]), ColumnId(row[1]), str(row[2])) for row in connection.execute(statement).all()]


def load_state(connection: Connection, tip: CommitId) -> dict[ColumnId, CommitId]:
    """The live columns at a commit, each with the commit that brought it in last; newest commit first."""
    settled: dict[ColumnId, CommitId | None] = {}
    for commit, column, change in first_parent_changes(connection, tip):
        if column not in settled:
            settled[column] = commit if change == "add" else None
    return {column: commit for column, commit in settled.items() if commit is not None}


def bringers(connection: Connection, columns: Collection[ColumnId]) -> dict[ColumnId, list[CommitId]]:
    """Every commit, of any history, that brings each column in."""
    found: dict[ColumnId, list[CommitId]] = {column: [] for column in columns}
    added = select(changes.c.column, changes.c.commit).where(changes.c.change == "add")
    for row in rows_with(connection, added, changes.c.column, columns):
        found[ColumnId(row.column)].append(CommitId(row.commit))
    return found


def recorded_states(connection: Connection) -> dict[CommitId, StateId]:
    """The state of every commit, oldest first."""
    rows = connection.execute(select(commits.c.id, commits.c.state).order_by(commits.c.seq))
    return {CommitId(row.id): StateId(row.state) for row in rows}


def commits_of_state(connection: Connection, state: StateId) -> list[CommitId]:
    """Oldest first."""
    statement = select(commits.c.id).where(commits.c.state == state).order_by(commits.c.seq)
    return [CommitId(c) for c in connection.execute(statement).scalars()]


def find_prefix(connection: Connection, prefix: str) -> list[CommitId]:
    """Commits whose id starts with `prefix` (hexadecimal digits), oldest first."""
    statement = select(commits.c.id).where(commits.c.id.startswith(prefix, autoescape=True)).order_by(commits.c.seq)
    return [CommitId(c) for c in connection.execute(statement).scalars()]


def insert_commit(connection: Connection, commit: Commit, state: StateId, record: BlobId) -> None:
    """The commit's rows; the caller has checked that parents, patches and columns are there."""
    connection.execute(
        insert(commits).values(
            id=commit.id,
            json=canonical_json(commit.to_json()).decode(),
            kind=commit.kind,
            message=commit.message,
            author=commit.author,
            time=commit.time,
            state=state,
            record=record,
        )
    )
    changed = [(column, "add") for column in commit.adds] + [(column, "remove") for column in commit.removes]
    rows: Mapping[Table, list[dict[str, object]]] = {
        parents: [{"n": n, "parent": parent} for n, parent in enumerate(commit.parents)],
        changes: [{"column": column, "change": change} for column, change in changed],
        commit_patches: [{"patch": patch} for patch in commit.patches],
    }
    for table, listed in rows.items():
        if listed:
            connection.execute(insert(table), [{"commit": commit.id, **row} for row in listed])
