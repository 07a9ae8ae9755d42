"""`undo`, `op log`, `op restore`: every change of refs is an operation, and every operation can be taken back."""

from __future__ import annotations

from dataclasses import dataclass

from memit_vc.objects import CommitId, Moved, moves
from memit_vc.repository import OperationRow, Repository

__all__ = ["Operation", "operation_log", "restore", "undo"]


@dataclass(frozen=True)
class Operation:
    """One line of the operation log. `undone_by` is the operation that took it back."""

    id: int
    time: str
    verb: str
    description: str
    undone_by: int | None
    moved: tuple[Moved, ...]


def operation_log(repository: Repository, *, limit: int | None = None) -> list[Operation]:
    """The operations, newest first."""
    return [_told(row) for row in repository.operations(limit)]


def undo(repository: Repository) -> Operation:
    """Put refs and HEAD back to where they were before the newest operation; an operation itself, so that undoing
    twice is a redo. UsageError where only `init` is left.
    """
    return _told(repository.undo())


def restore(repository: Repository, operation: int) -> tuple[Operation, CommitId]:
    """Put refs and HEAD back to where they were after an operation. RevisionError where it is not in the log.

    The newest operation, which is the restore itself unless nothing had to change, and where HEAD is.
    """
    return _told(repository.restore(operation)), repository.head().commit


def _told(row: OperationRow) -> Operation:
    moved = [Moved("HEAD", row.head_before or None, row.head_after)] if row.head_before != row.head_after else []
    moved += moves(row.refs_before, row.refs_after)
    return Operation(row.id, row.time, row.verb, row.description, row.undone_by, tuple(moved))
