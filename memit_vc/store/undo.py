"""Refs and HEAD put back to where an operation log says they were: an operation itself.

An operation stands until an undo takes it back; `undone_by` then names the undo. A redo takes that undo back in turn.
So the refs are always where the newest operation that stands, undos and redos aside, left them.
"""

from __future__ import annotations

from sqlalchemy import Connection, not_

from memit_vc.errors import UsageError
from memit_vc.objects import JsonValue
from memit_vc.store.records import OperationRow
from memit_vc.store.rows_refs import clear_undone, load_operations, logged, mark_undone, newest_operation, replace_refs
from memit_vc.store.schema import operations

_OURS = operations.c.verb.in_(("undo", "redo"))
_UNDONE = operations.c.undone_by.is_not(None)


def undo(connection: Connection, did: dict[str, JsonValue]) -> OperationRow:
    """Undo the newest operation that stands; the operation that does it. UsageError if only `init` is left."""
    wanted = newest_operation(connection, not_(_OURS), not_(_UNDONE))
    if wanted is None or not wanted.head_before:
        raise UsageError("there is nothing to undo", hint="See the operations with `memitvc op log`.")
    stays = " (the remote keeps what was pushed)" if wanted.verb == "push" else ""
    said = f"undo operation {wanted.id}: {wanted.verb}: {wanted.description}{stays}"
    with logged(connection, did, verb="undo", description=said):
        replace_refs(connection, wanted.refs_before, wanted.head_before)
    (made,) = load_operations(connection, limit=1)
    did["undone"] = [mark_undone(connection, wanted.id, made.id)]
    return made


def redo(connection: Connection, did: dict[str, JsonValue]) -> OperationRow:
    """Take the newest undo back that no other operation followed. UsageError if there is none."""
    wanted = newest_operation(connection, not_(_OURS & (_UNDONE | (operations.c.verb == "redo"))))
    if wanted is None or wanted.verb != "undo":
        raise UsageError(
            "there is nothing to redo: the last operation was not an undo",
            hint="`memitvc op restore NUMBER` goes to any point that `memitvc op log` shows.",
        )
    with logged(connection, did, verb="redo", description=f"redo{wanted.description.removeprefix('undo')}"):
        replace_refs(connection, wanted.refs_before, wanted.head_before)
    (made,) = load_operations(connection, limit=1)
    cleared = clear_undone(connection, wanted.id)
    did["undone"] = [*cleared, mark_undone(connection, wanted.id, made.id)]
    return made


def restore(connection: Connection, did: dict[str, JsonValue], operation: int) -> OperationRow:
    """Go back to where things were after an operation; the newest operation. RevisionError if it does not exist."""
    (wanted,) = load_operations(connection, only=operation)
    with logged(connection, did, verb="restore", description=f"restore operation {operation}"):
        replace_refs(connection, wanted.refs_after, wanted.head_after)
    return load_operations(connection, limit=1)[0]
