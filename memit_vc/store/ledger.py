"""What the repository keeps beside the history: refs, operations, measurements, patches that wait for their branch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from memit_vc.errors import UsageError
from memit_vc.objects import CommitId, Fact, Head, JsonValue, Patch, PatchId, StateId, StatisticsId
from memit_vc.store import rows_kept, rows_refs, rows_results
from memit_vc.store.catalogue import Catalogue
from memit_vc.store.publish import insert_patches
from memit_vc.store.records import KeptPatch, OperationRow

__all__ = ["Ledger"]


class Ledger(Catalogue):
    """The part of a repository that changes or reads rows without knowing the graph."""

    def head(self) -> Head:
        with self._database.read() as connection:
            return rows_refs.load_head(connection)

    def refs(self, prefix: str = "") -> dict[str, CommitId]:
        """Full name → commit, sorted by name; `prefix` "heads/" gives the branches."""
        with self._database.read() as connection:
            return rows_refs.load_refs(connection, prefix)

    def operations(self, limit: int | None = None) -> list[OperationRow]:
        """The operation log, newest first."""
        with self._database.read() as connection:
            return rows_refs.load_operations(connection, limit=limit)

    def undo(self) -> OperationRow:
        """Put refs and HEAD back to where they were before the newest operation.

        It is an operation itself: undoing it brings back what it took away. Returns it. UsageError where only `init`
        is left.
        """
        with self._database.write() as connection:
            newest = next(iter(rows_refs.load_operations(connection, limit=1)), None)
            if newest is None or not newest.head_before:
                raise UsageError("there is nothing to undo", hint="`memitvc op log` lists the operations.")
            made = self._set_refs(
                connection,
                "undo",
                _undoing(connection, newest),
                newest.refs_before,
                newest.head_before,
            )
            if made.id != newest.id:
                _mark(connection, made.id)
            return made

    def restore(self, operation: int) -> OperationRow:
        """Put refs and HEAD back to where they were after an operation; an operation itself, which is returned.

        RevisionError where there is no such operation. Where nothing would change, the newest operation is returned.
        """
        with self._database.write() as connection:
            (wanted,) = rows_refs.load_operations(connection, only=operation)
            return self._set_refs(
                connection, "restore", f"restore operation {operation}", wanted.refs_after, wanted.head_after
            )

    def _set_refs(
        self, connection: Connection, verb: str, description: str, refs: dict[str, str], head: str
    ) -> OperationRow:
        before = rows_refs.load_refs(connection), rows_refs.raw_head(connection)
        rows_refs.replace_refs(connection, refs, head)
        rows_refs.load_head(connection)
        after = rows_refs.load_refs(connection), rows_refs.raw_head(connection)
        if after != before:
            rows_refs.append_operation(connection, verb=verb, description=description, before=before, after=after)
        return rows_refs.load_operations(connection, limit=1)[0]

    def evaluations(self, state: StateId, kind: str | None = None) -> dict[tuple[str, str], JsonValue]:
        """What was measured on a state: (kind, key) → value."""
        with self._database.read() as connection:
            return rows_results.load_evaluations(connection, state, kind)

    def evaluations_of(self, commits: Collection[CommitId], kind: str) -> dict[CommitId, JsonValue]:
        """What of a kind is recorded under commits' own ids: commit → value."""
        with self._database.read() as connection:
            return rows_results.load_evaluations_of(connection, commits, kind)

    def put_evaluation(self, state: StateId, commit: CommitId | None, kind: str, key: str, value: JsonValue) -> None:
        """Record a measurement on a state, in place of an earlier one of the same kind and key."""
        with self._database.write() as connection:
            rows_results.replace_evaluation(connection, state, commit, kind, key, value)

    def statistics(self) -> dict[StatisticsId, JsonValue]:
        """The statistics that are complete, oldest first; their tensors lie in `statistics/<id>/`."""
        with self._database.read() as connection:
            return rows_results.load_statistics(connection)

    def put_statistics(self, id: StatisticsId, value: JsonValue) -> None:  # noqa: A002
        """Record that statistics are complete; call it after their files are durable."""
        with self._database.write() as connection:
            rows_results.replace_statistics(connection, id, value)

    def keep_patch(
        self, patch: Patch, facts: Sequence[Fact], *, parent: CommitId, message: str, details: JsonValue
    ) -> None:
        """Keep a patch whose branch moved while it was computed. It survives gc until it is committed for good: an
        `undo` of its commit makes it a kept one again.
        """
        with self._database.write() as connection:
            insert_patches(connection, self.blobs, self.base_id, [patch], facts)
            rows_kept.insert_kept(connection, patch.id, parent=parent, message=message, details=details)

    def kept(self, id: PatchId) -> KeptPatch:  # noqa: A002
        """RevisionError where no such patch is kept."""
        with self._database.read() as connection:
            return rows_kept.load_kept(connection, id)

    def kept_patches(self, *, everything: bool = False) -> list[PatchId]:
        """Those that wait for a commit, oldest first; with `everything` also those that some ref has a commit of."""
        with self._database.read() as connection:
            return rows_kept.waiting(connection, everything=everything)

    def drop_kept(self, id: PatchId) -> None:  # noqa: A002
        """Give a kept patch up: the next gc removes it."""
        with self._database.write() as connection:
            rows_kept.delete_kept(connection, [id])


def _undoing(connection: Connection, newest: OperationRow) -> str:
    """What an undo does to the last operation that was no undo itself: an undo of an undo does it again."""
    verb, operation = "undo", newest
    while operation.verb == "undo":
        found = rows_refs.load_operations(connection, limit=1, before=operation.id)
        if not found:  # pruned
            return f"{verb} operation {operation.id}: {operation.description}"
        verb, (operation,) = "redo" if verb == "undo" else "undo", found
    stays = " (what was sent stays there)" if operation.verb == "push" else ""
    return f"{verb} operation {operation.id}: {operation.verb}: {operation.description}{stays}"


def _mark(connection: Connection, undo: int) -> None:
    """An undo took back the operation before it, which, if it was an undo itself, no longer counts: what that one had
    taken back stands again, and so on back through the undos.
    """
    standing, by = False, undo
    while found := rows_refs.load_operations(connection, limit=1, before=by):
        (operation,) = found
        rows_refs.mark_undone(connection, operation.id, None if standing else by)
        if operation.verb != "undo":
            return
        standing, by = not standing, operation.id
