"""Which objects the rows name, and which of the others are commits that the database has lost."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from memit_vc.errors import MemitVCError
from memit_vc.objects import METADATA_KEY, BlobId, Commit, CommitId, PatchHeader, PatchId
from memit_vc.objects.commit_record import CommitRecord, KeptRecord
from memit_vc.store.blobs import BlobStore
from memit_vc.store.journal import Journal
from memit_vc.store.journal_replay import Replayed
from memit_vc.store.parsed import BAD_JSON, parsed
from memit_vc.store.safetensors_file import read_header
from memit_vc.store.schema import commits, kept, patches
from memit_vc.store.transaction import completed, newest_entry
from memit_vc.store.unfinished import unfinished_records
from memit_vc.store.writing import UNFINISHED

_MOST = 1 << 26
_STARTS = (b'{"brought":{', b'{"commit":{')
"""How the record of a commit begins."""


@dataclass
class Lost:
    """Commits and kept patches without a row, each with the object that holds its record; the objects that they need.

    A record may be gone, too: `needed` has it all the same.
    """

    commits: dict[CommitId, BlobId] = field(default_factory=dict)
    kept: dict[PatchId, BlobId] = field(default_factory=dict)
    needed: set[BlobId] = field(default_factory=set)
    parents: set[CommitId] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.commits or self.kept)


def referenced_blobs(connection: Connection) -> set[BlobId]:
    """Every blob that a row names: patches, constraints, provenance, records."""
    found: set[BlobId] = set()
    for row in connection.execute(select(patches.c.id, patches.c.header, patches.c.constraints)):
        header = parsed("patch", row.id, row.header, PatchHeader.from_json)
        found.update(BlobId(b) for b in (row.id, row.constraints, header.provenance) if b)
    for row in connection.execute(select(commits.c.id, commits.c.json, commits.c.record)):
        provenance = parsed("commit", row.id, row.json, Commit.from_json).provenance
        found.update(BlobId(b) for b in (row.record, provenance) if b)
    found.update(BlobId(b) for b in connection.execute(select(kept.c.record)).scalars())
    return found


def find_lost(connection: Connection, blobs: BlobStore, journal: Journal, told: Replayed | None = None) -> Lost:
    """A commit is lost if the journal has it, or an object holds its record, and no row is there.

    Not lost is what the journal says `gc` removed, and what a transaction was about to store when it died. `told` is
    what the journal said before `connection` was first used; by default that is now.
    """
    if told is None:
        entries = journal.entries()
        told = Replayed.of(completed(entries, newest_entry(connection)))
    rows = {CommitId(c) for c in connection.execute(select(commits.c.id)).scalars()}
    waiting = {PatchId(p) for p in connection.execute(select(kept.c.patch)).scalars()}
    found = Lost(
        {commit: record for commit, record in told.commits.items() if commit not in rows},
        {patch: record for patch, record in told.kept.items() if patch not in waiting},
    )
    unknown = dict(records_among(blobs, referenced_blobs(connection) | told.named))
    if unknown:
        # what is stored just now is unfinished, or stands in the journal by now: in this order
        explained = unfinished_records(blobs.root.parent / UNFINISHED)
        explained |= Replayed.of(journal.entries()).named
        for record, held in unknown.items():
            if record not in explained and held.commit.id not in rows:
                found.commits.setdefault(held.commit.id, record)
    for record in (*found.commits.values(), *found.kept.values()):
        found.needed.add(record)
        with suppress(MemitVCError, *BAD_JSON):
            _needs(blobs, record, found)
    return found


def records_among(blobs: BlobStore, explained: Collection[BlobId]) -> Iterator[tuple[BlobId, CommitRecord]]:
    """The objects beside those that are explained which hold the record of a commit."""
    for blob in blobs.iterate():
        if blob in explained:
            continue
        with suppress(MemitVCError, OSError, *BAD_JSON):
            with blobs.path(blob).open("rb") as file:
                start = file.read(16)
            if start.startswith(_STARTS) and blobs.size(blob) <= _MOST:
                yield blob, read_record(blobs, blob)


def read_record(blobs: BlobStore, blob: BlobId) -> CommitRecord:
    """IntegrityError for missing or damaged bytes, and `BAD_JSON` for an object that is no record."""
    return CommitRecord.from_json(json.loads(blobs.read(blob)))


def _needs(blobs: BlobStore, blob: BlobId, found: Lost) -> None:
    record = json.loads(blobs.read(blob))
    if "kept" in record:
        kept_patch = KeptRecord.from_json(record)
        found.parents.add(kept_patch.parent)
        named = {kept_patch.patch: kept_patch.constraints}
    else:
        commit = CommitRecord.from_json(record)
        found.parents.update(commit.commit.parents)
        named = dict(commit.patches)
        found.needed.update(b for b in (commit.commit.provenance,) if b)
    for patch, constraints in named.items():
        found.needed.update(BlobId(b) for b in (patch, constraints) if b)
        with suppress(MemitVCError, *BAD_JSON):
            header = json.loads(read_header(blobs.path(patch)).metadata[METADATA_KEY])
            found.needed.update(BlobId(b) for b in (PatchHeader.from_json(header).provenance,) if b)
