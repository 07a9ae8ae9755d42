"""Rows of patches that wait for their branch.

A row stays when its patch is committed: it only stops waiting, for as long as some ref has that commit, so that `undo`
gives the patch back. `forget_held` removes it once no operation can lead back to a place without the commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, and_, delete, insert, select

from memit_vc.errors import RevisionError
from memit_vc.objects import BlobId, CommitId, PatchId, canonical_json, short
from memit_vc.objects.commit_record import KeptRecord
from memit_vc.store.parsed import parsed
from memit_vc.store.records import KeptPatch
from memit_vc.store.rows_history import load_graph
from memit_vc.store.rows_patches import load_patches
from memit_vc.store.rows_refs import load_operations, load_refs, raw_head
from memit_vc.store.schema import changes, kept, patch_columns


def insert_kept(connection: Connection, kept_patch: KeptRecord, record: BlobId) -> None:
    delete_kept(connection, [kept_patch.patch])
    connection.execute(
        insert(kept).values(
            patch=kept_patch.patch,
            parent=kept_patch.parent,
            message=kept_patch.message,
            json=canonical_json(kept_patch.details).decode(),
            time=kept_patch.time,
            record=record,
        )
    )


def delete_kept(connection: Connection, patches: Sequence[PatchId]) -> None:
    if patches:
        connection.execute(delete(kept).where(kept.c.patch.in_(list(patches))))


def load_kept(connection: Connection, patch: PatchId) -> KeptPatch:
    row = connection.execute(select(kept).where(kept.c.patch == patch)).one_or_none()
    if row is None:
        raise RevisionError(f"no patch {short(patch)} is kept here", hint="Choose one that `memitvc status` lists.")
    return KeptPatch(
        patch=load_patches(connection, [patch])[patch],
        parent=CommitId(row.parent),
        message=row.message,
        details=parsed("kept patch", patch, row.json),
        time=row.time,
    )


def waiting(connection: Connection, *, everything: bool = False) -> list[PatchId]:
    """Those of which no commit of any ref or of HEAD brings a column in, oldest first; with `everything` all."""
    rows = [PatchId(p) for p in connection.execute(select(kept.c.patch).order_by(kept.c.time, kept.c.patch)).scalars()]
    if not rows or everything:
        return rows
    places = {*load_refs(connection).values(), raw_head(connection)}
    holders = _holders(connection, rows)
    return [patch for patch in rows if holders[patch].isdisjoint(places)]


def forget_held(connection: Connection) -> list[PatchId]:
    """Remove the rows whose patch has a commit now and wherever `undo` or `restore` could go; which they were."""
    rows = [PatchId(p) for p in connection.execute(select(kept.c.patch)).scalars()]
    if not rows:
        return []
    places = [{*load_refs(connection).values(), raw_head(connection)}]
    for operation in load_operations(connection):
        places.append({*operation.refs_before.values(), operation.head_before})
        places.append({*operation.refs_after.values(), operation.head_after})
    holders = _holders(connection, rows)
    held = [patch for patch in rows if not any(holders[patch].isdisjoint(place) for place in places)]
    delete_kept(connection, held)
    return held


def _holders(connection: Connection, patches: Iterable[PatchId]) -> Mapping[PatchId, set[CommitId]]:
    """The commits that have one in their history, themselves included, which brings a column of the patch in."""
    graph, _ = load_graph(connection)
    children: dict[CommitId, list[CommitId]] = {}
    for commit, parents in graph.items():
        for parent in parents:
            children.setdefault(parent, []).append(commit)
    found: dict[PatchId, set[CommitId]] = {}
    for patch in patches:
        columns = select(patch_columns.c.column).where(patch_columns.c.patch == patch)
        statement = select(changes.c.commit).where(and_(changes.c.column.in_(columns), changes.c.change == "add"))
        pending, reached = [CommitId(c) for c in connection.execute(statement).scalars()], set[CommitId]()
        while pending:
            commit = pending.pop()
            if commit not in reached:
                reached.add(commit)
                pending.extend(children.get(commit, ()))
        found[patch] = reached
    return found
