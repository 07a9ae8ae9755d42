"""The record of a commit, put together from rows: what the object holds that the commit's row names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from memit_vc.errors import IntegrityError
from memit_vc.objects import BlobId, Commit, CommitId, Fact, FactId, JsonValue, PatchId, finite, short
from memit_vc.objects.commit_record import HANDED_ON, CommitRecord
from memit_vc.store.blobs import blob_id
from memit_vc.store.database import rows_with
from memit_vc.store.publish import Evaluation
from memit_vc.store.rows_patches import load_facts
from memit_vc.store.schema import patch_columns, patches


class NewRecords:
    """The records of the commits that a transaction stores, put together from its rows and its `evaluations`."""

    def __init__(self, connection: Connection, evaluations: Sequence[Evaluation]) -> None:
        self.connection = connection
        self.data: dict[CommitId, bytes] = {}
        self._facts: dict[FactId, Fact] = {}
        self._scores: dict[CommitId, dict[str, JsonValue]] = {}
        for _, commit, kind, key, value in evaluations:
            if commit is not None and key == commit:
                self._scores.setdefault(commit, {})[kind] = finite(value)

    def of(self, commit: Commit) -> BlobId:
        """The object that will hold the commit's record; its patches have rows."""
        made = commit_record(self.connection, commit, self._scores.get(commit.id, {}), self._facts)
        self.data[commit.id] = made.encode()
        return blob_id(self.data[commit.id])

    @property
    def named(self) -> list[JsonValue]:
        """What the journal says: each commit with its record, parents first."""
        return [[commit, blob_id(data)] for commit, data in self.data.items()]


def commit_record(
    connection: Connection, commit: Commit, scores: Mapping[str, JsonValue], known: dict[FactId, Fact]
) -> CommitRecord:
    """`scores` by kind. The patches that hold the commit's new columns must be there: IntegrityError. Facts that are
    not `known` yet are read and put there: many commits may name the same patch.
    """
    holding = rows_with(connection, select(patch_columns), patch_columns.c.column, commit.adds)
    holders: dict[str, set[PatchId]] = {}
    for row in holding:
        holders.setdefault(row.column, set()).add(PatchId(row.patch))
    own = set(commit.patches)
    own |= {min(found) for found in holders.values() if found.isdisjoint(own)}
    rows = {row.id: row.constraints for row in rows_with(connection, select(patches), patches.c.id, own)}
    if absent := own - rows.keys():
        raise IntegrityError(f"commit {short(commit.id)}: its patch {short(min(absent))} is not in this repository")
    named: dict[FactId, None] = {}
    ordered = select(patch_columns).order_by(patch_columns.c.patch, patch_columns.c.position)
    for row in rows_with(connection, ordered, patch_columns.c.patch, own):
        if row.fact is not None:
            named[FactId(row.fact)] = None
    known.update(load_facts(connection, [fact for fact in named if fact not in known]))
    constraints = {patch: None if rows[patch] is None else BlobId(rows[patch]) for patch in sorted(own)}
    return CommitRecord(
        commit,
        tuple(known[fact] for fact in named),
        constraints,
        _mapping(scores.get("commit")),
        _mapping(scores.get(HANDED_ON)),
    )


def _mapping(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None
