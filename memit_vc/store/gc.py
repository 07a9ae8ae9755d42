"""What nothing refers to any more: found and removed under the write lock."""

from __future__ import annotations

import time
from collections.abc import Iterable

from sqlalchemy import Connection, delete, select, update

from memit_vc.objects import CommitId, JsonValue, PatchId
from memit_vc.progress import Progress, silent
from memit_vc.store.blobs import BlobStore
from memit_vc.store.database import Database, chunked
from memit_vc.store.journal import Journal
from memit_vc.store.lost import Lost, find_lost, referenced_blobs
from memit_vc.store.records import GcResult
from memit_vc.store.rows_history import load_graph
from memit_vc.store.rows_kept import forget_held
from memit_vc.store.rows_refs import load_operations, load_refs, raw_head
from memit_vc.store.schema import (
    changes,
    column_bounds,
    commit_patches,
    commits,
    evaluations,
    facts,
    kept,
    operations,
    parents,
    patch_columns,
    patches,
)
from memit_vc.store.temporaries import remove_temporary, stale_temporaries
from memit_vc.store.transaction import changing
from memit_vc.store.unfinished import forget_unfinished
from memit_vc.store.writing import UNFINISHED, writing_since


def collect(
    database: Database,
    blobs: BlobStore,
    journal: Journal,
    *,
    keep_operations: int | None,
    grace: float,
    dry_run: bool,
    progress: Progress = silent,
) -> GcResult:
    """Remove what is no longer reachable; `dry_run` only counts.

    With `keep_operations` None every operation stays, and with it all that `undo` and `restore` can bring back; with N
    the log is cut to its last N operations first. Blobs and temporary files younger than `grace` seconds stay.
    """
    # the files first: on a full disk no row can be removed before something else is gone
    stale = stale_temporaries(blobs.root.parent, grace)
    size = sum(count for _, count in stale)
    if dry_run:
        with database.trial() as connection:
            lost = find_lost(connection, blobs, journal)
            commits, operations = _drop_rows(connection, keep_operations, lost, {})
            orphans, freed = _sweep(connection, blobs, lost, grace=grace, dry_run=True, progress=progress)
        return GcResult(orphans, size + freed, commits, operations, len(stale))
    for path, _ in stale:
        remove_temporary(path)

    def sweep() -> tuple[int, int]:
        with database.write() as connection:
            lost = find_lost(connection, blobs, journal)
            return _sweep(connection, blobs, lost, grace=grace, dry_run=False, progress=progress)

    orphans, freed = sweep()
    with changing(database, journal) as (connection, did):
        commits, operations = _drop_rows(connection, keep_operations, find_lost(connection, blobs, journal), did)
    more, freed_then = sweep()
    return GcResult(orphans + more, size + freed + freed_then, commits, operations, len(stale))


def _drop_rows(
    connection: Connection, keep_operations: int | None, lost: Lost, did: dict[str, JsonValue]
) -> tuple[int, int]:
    """Remove old operations (all but the last `keep_operations`; None keeps all), then the rows no longer reachable.

    Reachable is what refs, HEAD, the remaining operations and kept patches name, with all ancestors.
    What lost commits stand on stays. Returns how many commits and operations went.
    """
    forgotten = _drop_operations(connection, keep_operations)
    held = forget_held(connection)
    graph, _ = load_graph(connection)
    unreachable = set(graph) - _reachable(connection, graph, lost.parents)
    _drop_commits(connection, unreachable)
    _drop_patches(connection)
    if forgotten:
        did["forgotten"] = max(forgotten)
    if held:
        did["dropped"] = held
    if unreachable:
        did["gone"] = sorted(unreachable)
    return len(unreachable), len(forgotten)


def _sweep(
    connection: Connection, blobs: BlobStore, lost: Lost, *, grace: float, dry_run: bool, progress: Progress = silent
) -> tuple[int, int]:
    """Remove unreferenced blobs: (blobs, bytes).

    To be called under the write lock, after the removal of rows was committed: a crash then leaves orphans, never a row
    without its bytes. A blob goes only when it was not put for `grace` seconds, and not since the oldest writer that
    still lives began: a commit that is still computing may be about to refer to it, and the clock may have been set.
    """
    named = referenced_blobs(connection) | lost.needed
    strangers = [b for b in blobs.iterate() if b not in named]
    old = time.time() - grace
    since = writing_since(blobs.root.parent / UNFINISHED) if grace > 0 else float("inf")
    orphans = [b for b in strangers if blobs.put_at(b) <= old and blobs.put_at(b) < since]
    size = 0
    for number, blob in enumerate(orphans, start=1):
        size += blobs.size(blob) if dry_run else blobs.remove(blob)
        progress("removing objects", number, len(orphans))
    if not dry_run:
        forget_unfinished(blobs.root.parent / UNFINISHED, set(strangers) - set(orphans), grace)
    return len(orphans), size


def _drop_operations(connection: Connection, keep: int | None) -> list[int]:
    if keep is None:
        return []
    numbers = list(connection.execute(select(operations.c.id).order_by(operations.c.id.desc())).scalars())
    old = numbers[keep:]
    for part in chunked(old):
        connection.execute(delete(operations).where(operations.c.id.in_(part)))
    return old


def _reachable(
    connection: Connection, graph: dict[CommitId, tuple[CommitId, ...]], more: Iterable[CommitId]
) -> set[CommitId]:
    roots: set[str] = {*load_refs(connection).values(), raw_head(connection), *more}
    roots.update(connection.execute(select(kept.c.parent)).scalars())
    for operation in load_operations(connection):
        roots.update(operation.refs_before.values(), operation.refs_after.values())
        roots.update((operation.head_before, operation.head_after))
    pending = [CommitId(root) for root in roots if root in graph]
    found: set[CommitId] = set()
    while pending:
        commit = pending.pop()
        if commit not in found:
            found.add(commit)
            pending.extend(graph[commit])
    return found


def _drop_commits(connection: Connection, gone: Iterable[CommitId]) -> None:
    for part in chunked(list(gone)):
        connection.execute(update(evaluations).where(evaluations.c.commit.in_(part)).values(commit=None))
        for table in (parents, changes, commit_patches):
            connection.execute(delete(table).where(table.c.commit.in_(part)))
    for part in chunked(list(gone)):
        connection.execute(delete(commits).where(commits.c.id.in_(part)))


def _drop_patches(connection: Connection) -> None:
    """Patches that no commit and no kept patch names, unless they alone supply a column of some commit; their facts."""
    everything = {PatchId(p) for p in connection.execute(select(patches.c.id)).scalars()}
    used = {PatchId(p) for p in connection.execute(select(commit_patches.c.patch)).scalars()}
    used.update(PatchId(p) for p in connection.execute(select(kept.c.patch)).scalars())
    needed = set(connection.execute(select(changes.c.column).distinct()).scalars())
    spare: dict[str, list[PatchId]] = {}
    for row in connection.execute(select(patch_columns.c.patch, patch_columns.c.column)):
        if row.patch in used:
            needed.discard(row.column)
        else:
            spare.setdefault(row.column, []).append(PatchId(row.patch))
    for column in needed:
        used.update(spare.get(column, ()))
    for part in chunked(everything - used):
        connection.execute(delete(patch_columns).where(patch_columns.c.patch.in_(part)))
        connection.execute(delete(patches).where(patches.c.id.in_(part)))
    connection.execute(delete(column_bounds).where(column_bounds.c.column.not_in(select(patch_columns.c.column))))
    # SQL: nothing is "not in" a list that holds a null
    named = select(patch_columns.c.fact).where(patch_columns.c.fact.is_not(None))
    connection.execute(delete(facts).where(facts.c.id.not_in(named)))
