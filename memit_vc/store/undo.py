"""Refs and HEAD put back to where an operation log says they were: an operation itself."""

from __future__ import annotations

from sqlalchemy import Connection

from memit_vc.errors import UsageError
from memit_vc.objects import JsonValue
from memit_vc.store.records import OperationRow
from memit_vc.store.rows_refs import load_operations, logged, mark_undone, replace_refs


def undo(connection: Connection, did: dict[str, JsonValue]) -> OperationRow:
    """Undo the newest operation; the operation that does it. UsageError if only `init` is left."""
    newest = next(iter(load_operations(connection, limit=1)), None)
    if newest is None or not newest.head_before:
        raise UsageError("there is nothing to undo", hint="See the operations with `memitvc op log`.")
    with logged(connection, did, verb="undo", description=_undoing(connection, newest)):
        replace_refs(connection, newest.refs_before, newest.head_before)
    (made,) = load_operations(connection, limit=1)
    if made.id != newest.id:
        did["undone"] = _mark(connection, made.id)
    return made


def restore(connection: Connection, did: dict[str, JsonValue], operation: int) -> OperationRow:
    """Go back to where things were after an operation; the newest operation. RevisionError if it does not exist."""
    (wanted,) = load_operations(connection, only=operation)
    with logged(connection, did, verb="restore", description=f"restore operation {operation}"):
        replace_refs(connection, wanted.refs_after, wanted.head_after)
    return load_operations(connection, limit=1)[0]


def _undoing(connection: Connection, newest: OperationRow) -> str:
    """What an undo does to the last operation that was not an undo itself: an undo of an undo does it again."""
    verb, operation = "undo", newest
    while operation.verb == "undo":
        found = load_operations(connection, limit=1, before=operation.id)
        if not found:  # pruned
            return f"{verb} operation {operation.id}: {operation.description}"
        verb, (operation,) = "redo" if verb == "undo" else "undo", found
    stays = " (the remote keeps what was pushed)" if operation.verb == "push" else ""
    return f"{verb} operation {operation.id}: {operation.verb}: {operation.description}{stays}"


def _mark(connection: Connection, undo: int) -> list[JsonValue]:
    """An undo took back the operation before it, which, if it was an undo itself, no longer counts: what that one had
    taken back stands again, and so on back through the undos.
    """
    standing, by = False, undo
    marked: list[JsonValue] = []
    while found := load_operations(connection, limit=1, before=by):
        (operation,) = found
        mark_undone(connection, operation.id, None if standing else by)
        marked.append([operation.id, None if standing else by])
        if operation.verb != "undo":
            break
        standing, by = not standing, operation.id
    return marked
