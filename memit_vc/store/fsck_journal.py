"""fsck's half about what lies beside the database: the journal, records of commits, the base's description."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, select

from memit_vc.errors import IntegrityError
from memit_vc.objects import BaseId, Commit, CommitId, canonical_json, short
from memit_vc.objects.base_record import BASE, BaseRecord
from memit_vc.objects.commit_record import CommitRecord, KeptRecord
from memit_vc.store.blobs import BlobStore
from memit_vc.store.journal import FIRST, Entry, Journal
from memit_vc.store.journal_replay import Replayed
from memit_vc.store.lost import find_lost
from memit_vc.store.parsed import BAD_JSON
from memit_vc.store.records import Problem
from memit_vc.store.rows_refs import load_refs, raw_head
from memit_vc.store.schema import commits, kept, operations, patches
from memit_vc.store.transaction import completed, newest_entry


def journal_problems(
    connection: Connection, entries: Sequence[Entry], known: Mapping[CommitId, Commit | None]
) -> Iterator[Problem]:
    """Where the journal and the rows tell different stories."""
    newest = newest_entry(connection)
    entries = completed(entries, newest)
    last = entries[-1] if entries else FIRST
    told = Replayed.of(entries)
    for gap in told.gaps:
        yield Problem("journal", "journal", gap)
    if last.number > newest.number:
        yield Problem(
            "database",
            "meta.db",
            f"is older than the journal: it lacks {last.number - newest.number} of {last.number} changes",
        )
    elif last.digest != newest.digest:
        yield Problem(
            "journal", "journal", f"lacks what the database has: it ends at line {last.number}, not {newest.number}"
        )
    elif not told.gaps:
        yield from _differences(connection, told, known)


def _differences(connection: Connection, told: Replayed, known: Mapping[CommitId, Commit | None]) -> Iterator[Problem]:
    refs = load_refs(connection)
    for name in sorted({*refs, *told.refs}):
        if refs.get(name) != told.refs.get(name):
            yield Problem("ref", name, "is not where the journal says")
    if raw_head(connection) != told.head:
        yield Problem("head", "HEAD", f"is not where the journal says, {told.head}")
    stored = _pairs(connection, commits.c.id, commits.c.record)
    for commit in told.commits:
        if commit in stored and stored[commit] != told.commits[commit]:
            yield Problem("commit", commit, "its record is not the one that the journal names")
    for commit in known:
        if commit not in told.commits:
            yield Problem("commit", commit, "the journal does not have it")
    rows = _pairs(connection, operations.c.id, operations.c.digest)
    logged = {number: operation.digest for number, operation in told.operations.items()}
    differing = {number for number, _ in logged.items() ^ rows.items()}
    for number in sorted(differing, key=str):
        yield Problem("operation", str(number), "is not as the journal has it")
    waiting = _pairs(connection, kept.c.patch, kept.c.record)
    for patch, _ in sorted(waiting.items() ^ told.kept.items()):
        yield Problem("patch", patch, "it is kept in the journal or in the database only")
    for row in connection.execute(select(patches.c.id, patches.c.constraints)):
        # a patch that `gc` removed may have come again without them
        if row.constraints is not None and row.constraints != told.constraints.get(row.id, row.constraints):
            yield Problem("patch", row.id, "its constraints are not those that the journal names")


def _pairs(connection: Connection, key: Column[Any], value: Column[Any]) -> dict[Any, Any]:
    return {row[0]: row[1] for row in connection.execute(select(key, value))}


def lost_problems(
    connection: Connection, blobs: BlobStore, journal: Journal, entries: Sequence[Entry]
) -> Iterator[Problem]:
    told = Replayed.of(completed(entries, newest_entry(connection)))
    found = find_lost(connection, blobs, journal, told)
    for commit, record in found.commits.items():
        if blobs.has(record):
            yield Problem("lost commit", commit, f"has no row; its record is object {short(record)}")
        else:
            yield Problem("lost commit", commit, f"has no row, and its record, object {short(record)}, is missing")
    for patch in found.kept:
        yield Problem("patch", patch, "was kept until its branch is free, and has no row")


def record_problems(connection: Connection, blobs: BlobStore) -> Iterator[Problem]:
    """Where a row differs from the record that it names; missing and damaged records are named with the objects."""
    for row in connection.execute(select(commits.c.id, commits.c.record)):
        with suppress(IntegrityError):
            record = blobs.read(row.record)
            if CommitRecord.from_json(json.loads(record)).commit.id != row.id:
                yield Problem("commit", row.id, f"its record {short(row.record)} is of another commit")
    for row in connection.execute(select(kept)):
        with suppress(IntegrityError):
            found = KeptRecord.from_json(json.loads(blobs.read(row.record)))
            told = (found.patch, found.parent, found.message, canonical_json(found.details).decode(), found.time)
            if told != (row.patch, row.parent, row.message, row.json, row.time):
                yield Problem("patch", row.patch, "what is kept with it differs from its record")


def base_file_problems(root: Path, base: BaseId) -> Iterator[Problem]:
    try:
        whole = BaseRecord.parse((root / BASE).read_bytes()).manifest.id == base
    except (OSError, *BAD_JSON):
        whole = False
    if not whole:
        yield Problem("base", BASE, f"{root / BASE} is missing or damaged: it says what the database says of the base")
