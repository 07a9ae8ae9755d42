"""Records of commits written again from their rows: for objects that were deleted or damaged."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import Connection, select, update

from memit_vc.errors import IntegrityError
from memit_vc.objects import BlobId, CommitId, JsonValue
from memit_vc.objects.commit_record import HANDED_ON
from memit_vc.store.blobs import BlobStore
from memit_vc.store.database import Database
from memit_vc.store.journal import Journal
from memit_vc.store.rows_history import load_commits
from memit_vc.store.rows_records import commit_record
from memit_vc.store.rows_results import load_evaluations_of
from memit_vc.store.schema import commits
from memit_vc.store.transaction import changing


def mend_records(database: Database, journal: Journal, blobs: BlobStore) -> int:
    """How many were written. IntegrityError if the rows are damaged, or journal and database differ."""
    with changing(database, journal) as (connection, did):
        rows = connection.execute(select(commits.c.id, commits.c.record).order_by(commits.c.seq)).all()
        lacking = [CommitId(row.id) for row in rows if not blobs.verify(row.record)]
        named: list[JsonValue] = [[commit, _written(connection, blobs, commit)] for commit in lacking]
        if named:
            did["commits"] = named
    return len(named)


def _written(connection: Connection, blobs: BlobStore, commit: CommitId) -> BlobId:
    """The scores may be newer than they were, so the object may have another name."""
    kinds = ("commit", HANDED_ON)
    scores: dict[str, JsonValue] = dict.fromkeys(kinds)
    for kind in kinds:
        with suppress(IntegrityError):  # they can be measured again
            scores[kind] = load_evaluations_of(connection, [commit], kind).get(commit)
    record = commit_record(connection, load_commits(connection, [commit])[commit], scores, {})
    blob = blobs.put(record.encode())
    connection.execute(update(commits).where(commits.c.id == commit).values(record=blob))
    return blob
