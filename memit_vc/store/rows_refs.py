"""Rows of refs, HEAD and the operation log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, text, update

from memit_vc.errors import IntegrityError, RefMovedError, RevisionError
from memit_vc.objects import CommitId, Head, JsonValue, RefUpdate, canonical_json, short, utc_now
from memit_vc.store.journal import REBUILD
from memit_vc.store.parsed import bad_row, parsed
from memit_vc.store.records import OperationRow
from memit_vc.store.schema import meta, operations, refs


def read_meta(connection: Connection, key: str) -> str:
    value = connection.execute(select(meta.c.value).where(meta.c.key == key)).scalar_one_or_none()
    if value is None:
        raise IntegrityError(f"the database lacks {key!r}", hint=REBUILD)
    return str(value)


def write_meta(connection: Connection, key: str, value: str) -> None:
    if connection.execute(update(meta).where(meta.c.key == key).values(value=value)).rowcount == 0:
        connection.execute(insert(meta).values(key=key, value=value))


def load_refs(connection: Connection, prefix: str = "") -> dict[str, CommitId]:
    """Sorted by name."""
    statement = select(refs.c.name, refs.c.commit).order_by(refs.c.name)
    if prefix:
        statement = statement.where(func.substr(refs.c.name, 1, len(prefix)) == prefix)  # LIKE ignores case
    return {str(row.name): CommitId(row.commit) for row in connection.execute(statement)}


def raw_head(connection: Connection) -> str:
    """ "heads/<branch>" or a commit id."""
    return read_meta(connection, "head")


def load_head(connection: Connection) -> Head:
    """IntegrityError if HEAD names a branch that does not exist."""
    head = raw_head(connection)
    if not head.startswith("heads/"):
        return Head(None, CommitId(head))
    commit = connection.execute(select(refs.c.commit).where(refs.c.name == head)).scalar_one_or_none()
    if commit is None:
        raise IntegrityError(
            f"HEAD is on branch {head.removeprefix('heads/')!r}, which does not exist",
            hint="See where HEAD was with `memitvc op log`; go back there with `memitvc op restore NUMBER`.",
        )
    return Head(head.removeprefix("heads/"), CommitId(commit))


def move_ref(connection: Connection, change: RefUpdate) -> None:
    """Compare-and-swap of one ref; RefMovedError if it is not at `change.old`."""
    found = connection.execute(select(refs.c.commit).where(refs.c.name == change.name)).scalar_one_or_none()
    if found != change.old:
        raise RefMovedError(
            f"{change.name} is {_place(found)}, not {_place(change.old)}: another command moved it meanwhile",
            hint="Look at `memitvc log` and run the command again. Nothing was changed.",
        )
    if change.new == change.old:
        return
    if change.new is None:
        connection.execute(delete(refs).where(refs.c.name == change.name))
    elif change.old is None:
        connection.execute(insert(refs).values(name=change.name, commit=change.new))
    else:
        connection.execute(update(refs).where(refs.c.name == change.name).values(commit=change.new))


def _place(commit: str | None) -> str:
    return "absent" if commit is None else f"at {short(commit)}"


def replace_refs(connection: Connection, wanted: Mapping[str, str], head: str) -> None:
    """Set all refs and HEAD, whatever they were: for undo and restore."""
    for name, commit in load_refs(connection).items():
        target = wanted.get(name)
        if target != commit:
            move_ref(connection, RefUpdate(name, commit, None if target is None else CommitId(target)))
    existing = load_refs(connection)
    for name, target in wanted.items():
        if name not in existing:
            move_ref(connection, RefUpdate(name, None, CommitId(target)))
    write_meta(connection, "head", head)


@contextmanager
def logged(connection: Connection, did: dict[str, JsonValue], *, verb: str, description: str) -> Iterator[None]:
    """An operation of what the block changes in refs and HEAD; none where that is nothing. It is noted in `did`.

    IntegrityError if HEAD would be on a branch that does not exist.
    """
    before = load_refs(connection), raw_head(connection)
    yield
    load_head(connection)
    after = load_refs(connection), raw_head(connection)
    if after != before:
        did["operation"] = append_operation(connection, verb, description, before=before, after=after)


def append_operation(
    connection: Connection,
    verb: str,
    description: str,
    *,
    before: tuple[Mapping[str, str], str],
    after: tuple[Mapping[str, str], str],
) -> JsonValue:
    """`before` and `after` are (refs, HEAD). Returns what the journal says of it."""
    # what was pruned counts, too: its number is never given out again
    made = OperationRow(
        last_number(connection) + 1,
        utc_now(),
        verb,
        description,
        dict(before[0]),
        dict(after[0]),
        before[1],
        after[1],
    )
    insert_operation(connection, made)
    told = made.to_json()
    del told["undone_by"]
    return told


def insert_operation(connection: Connection, operation: OperationRow) -> None:
    texts = {
        "refs_before": canonical_json(dict(operation.refs_before)).decode(),
        "refs_after": canonical_json(dict(operation.refs_after)).decode(),
    }
    connection.execute(insert(operations).values({**operation.to_row(), **texts, "digest": operation.digest}))


def last_number(connection: Connection) -> int:
    """Of the newest operation that there ever was."""
    found = connection.execute(text("SELECT seq FROM sqlite_sequence WHERE name = 'operations'")).scalar()
    return int(found or 0)


def set_last_number(connection: Connection, number: int) -> None:
    """After the operations were inserted: the numbers of pruned ones are not given out again."""
    connection.execute(text("DELETE FROM sqlite_sequence WHERE name = 'operations'"))
    connection.execute(
        text("INSERT INTO sqlite_sequence (name, seq) VALUES ('operations', :number)"), {"number": number}
    )


def latest_operation(connection: Connection) -> int:
    """0 if the log is empty."""
    return int(connection.execute(select(func.max(operations.c.id))).scalar() or 0)


def load_operations(connection: Connection, *, limit: int | None = None, only: int | None = None) -> list[OperationRow]:
    """Newest first."""
    statement = select(operations).order_by(operations.c.id.desc())
    if only is not None:
        statement = statement.where(operations.c.id == only)
    if limit is not None:
        statement = statement.limit(limit)
    found = [_operation(row) for row in connection.execute(statement)]
    if only is not None and not found:
        raise RevisionError(f"there is no operation {only}", hint="Choose one that `memitvc op log` lists.")
    return found


def newest_operation(connection: Connection, *conditions: ColumnElement[bool]) -> OperationRow | None:
    """The newest that meets the conditions."""
    statement = select(operations).where(*conditions).order_by(operations.c.id.desc()).limit(1)
    found = connection.execute(statement).first()
    return None if found is None else _operation(found)


def mark_undone(connection: Connection, operation: int, by: int | None) -> list[JsonValue]:
    """[operation, by], as the journal says it."""
    (found,) = load_operations(connection, only=operation)
    changed = replace(found, undone_by=by)
    connection.execute(
        update(operations).where(operations.c.id == operation).values(undone_by=by, digest=changed.digest)
    )
    return [operation, by]


def clear_undone(connection: Connection, by: int) -> list[JsonValue]:
    """What an operation took back stands again; as the journal says it."""
    numbers = connection.execute(select(operations.c.id).where(operations.c.undone_by == by)).scalars().all()
    return [mark_undone(connection, number, None) for number in numbers]


def _operation(row: Row[tuple[object, ...]]) -> OperationRow:
    found = OperationRow(
        id=row.id,
        time=row.time,
        verb=row.verb,
        description=row.description,
        refs_before=parsed("operation", row.id, row.refs_before, dict),
        refs_after=parsed("operation", row.id, row.refs_after, dict),
        head_before=row.head_before,
        head_after=row.head_after,
        undone_by=row.undone_by,
    )
    try:
        whole = found.digest == row.digest
    except (TypeError, ValueError):  # bytes where text should be
        whole = False
    if not whole:
        raise bad_row("operation", row.id, "it does not hash to its digest")
    return found
