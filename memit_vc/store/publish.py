"""The parts of a publication, in the order of `Repository.publish`; each raises before anything is half done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from sqlalchemy import Connection

from memit_vc.errors import IntegrityError, RefMovedError
from memit_vc.objects import (
    BaseId,
    BlobId,
    ColumnId,
    Commit,
    CommitId,
    Fact,
    JsonValue,
    Patch,
    PatchId,
    RefUpdate,
    StateId,
    short,
)
from memit_vc.store.blobs import BlobStore
from memit_vc.store.replay import replayed
from memit_vc.store.rows_history import insert_commit, load_state, present
from memit_vc.store.rows_patches import insert_facts, insert_patch, known_columns
from memit_vc.store.rows_refs import load_refs, move_ref, raw_head, write_meta

Evaluation: TypeAlias = tuple[StateId, "CommitId | None", str, str, JsonValue]
"""(state, commit, kind, key, value)."""
StateHash: TypeAlias = Callable[[Collection[ColumnId]], StateId]


def check_unmoved(connection: Connection, refs: Sequence[RefUpdate], head_was: str | None) -> None:
    """RefMovedError if a ref that is to move, or HEAD, is not where it was when the work began."""
    head = raw_head(connection)
    if head_was is not None and head != head_was:
        raise RefMovedError(
            f"HEAD is {_at(head)}, not {_at(head_was)}: another command moved it meanwhile",
            hint="Look at `memitvc log` and run the command again. Nothing was changed.",
        )
    for change in refs:
        if change.old is not None or change.new is None:
            move_ref(connection, RefUpdate(change.name, change.old, change.old))


def move(connection: Connection, refs: Sequence[RefUpdate], head: str | None) -> None:
    """Refs by compare-and-swap, and HEAD; IntegrityError if one would point at what is not stored.

    RefMovedError if HEAD would be on a branch that is gone: another command deleted it, or went to one that goes here.
    """
    targets = {change.new for change in refs if change.new is not None}
    missing = targets - present(connection, targets)
    if missing:
        raise IntegrityError(f"a ref would point at {short(min(missing))}, which is not in this repository")
    for change in refs:
        move_ref(connection, change)
    if head is not None:
        if not head.startswith("heads/") and not present(connection, [CommitId(head)]):
            raise IntegrityError(f"HEAD would point at {short(head)}, which is not in this repository")
        write_meta(connection, "head", head)
    now = raw_head(connection)
    if now.startswith("heads/") and now not in load_refs(connection):
        raise RefMovedError(
            f"HEAD would be on branch {now.removeprefix('heads/')!r}, which is gone: another command was faster",
            hint="Nothing was changed. Look at `memitvc branch` and run the command again.",
        )


def insert_patches(
    connection: Connection, blobs: BlobStore, base: BaseId, patches: Sequence[Patch], facts: Sequence[Fact]
) -> dict[PatchId, BlobId]:
    """Facts and patches. Returns the constraints that patches have got which were here without.

    IntegrityError if bytes are missing or belong to another base.

    Blobs are looked for inside the transaction: gc, which deletes them, holds the same lock.
    """
    insert_facts(connection, facts)
    late: dict[PatchId, BlobId] = {}
    for patch in patches:
        if patch.header.base != base:
            raise IntegrityError(
                f"patch {short(patch.id)} belongs to base {short(patch.header.base)}, this repository has {short(base)}"
            )
        for blob in (BlobId(patch.id), patch.constraints, patch.header.provenance):
            if blob is not None:
                blobs.path(blob)
        if insert_patch(connection, patch) and patch.constraints is not None:
            late[patch.id] = patch.constraints
    return late


def insert_commits(
    connection: Connection,
    blobs: BlobStore,
    base: BaseId,
    state_hash: StateHash,
    commits: Sequence[Commit],
    record_of: Callable[[Commit], BlobId],
) -> None:
    """Commits, parents before children; those that are stored already are passed over. IntegrityError.

    `record_of` names the object that holds a commit's record; it is called when the commit's patches are there.
    """
    known = present(connection, {c.id for c in commits} | {p for c in commits for p in c.parents})
    available = known_columns(connection, {column for c in commits for column in (*c.adds, *c.removes)})

    def stored(commit: CommitId) -> frozenset[ColumnId]:
        return frozenset(load_state(connection, commit))

    for commit, state in replayed(commits, base, known=known, columns=available, state=stored):
        if commit.provenance is not None:
            blobs.path(commit.provenance)
        insert_commit(connection, commit, state_hash(state), record_of(commit))


def _at(head: str) -> str:
    return f"on branch {head.removeprefix('heads/')}" if head.startswith("heads/") else f"at {short(head)}"
