"""Rows of what was measured or computed: evaluations, statistics, patches that wait for their branch."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import Connection, and_, delete, insert, select

from memit_vc.errors import RevisionError
from memit_vc.objects import CommitId, JsonValue, PatchId, StateId, StatisticsId, canonical_json, short
from memit_vc.store.records import KeptPatch, utc_now
from memit_vc.store.rows_patches import load_patch
from memit_vc.store.schema import evaluations, kept, statistics

__all__ = [
    "delete_kept",
    "insert_kept",
    "kept_ids",
    "load_evaluations",
    "load_kept",
    "load_statistics",
    "replace_evaluation",
    "replace_statistics",
]


def load_evaluations(
    connection: Connection, state: StateId, kind: str | None = None
) -> dict[tuple[str, str], JsonValue]:
    """(kind, key) → value."""
    statement = select(evaluations).where(evaluations.c.state == state).order_by(evaluations.c.id)
    if kind is not None:
        statement = statement.where(evaluations.c.kind == kind)
    return {(str(row.kind), str(row.key)): json.loads(row.json) for row in connection.execute(statement)}


def replace_evaluation(
    connection: Connection, state: StateId, commit: CommitId | None, kind: str, key: str, value: JsonValue
) -> None:
    table = evaluations.c
    connection.execute(delete(evaluations).where(and_(table.state == state, table.kind == kind, table.key == key)))
    connection.execute(
        insert(evaluations).values(
            state=state, commit=commit, kind=kind, key=key, json=canonical_json(value).decode(), time=utc_now()
        )
    )


def load_statistics(connection: Connection) -> dict[StatisticsId, JsonValue]:
    statement = select(statistics).order_by(statistics.c.time, statistics.c.id)
    return {StatisticsId(row.id): json.loads(row.json) for row in connection.execute(statement)}


def replace_statistics(connection: Connection, identifier: StatisticsId, value: JsonValue) -> None:
    connection.execute(delete(statistics).where(statistics.c.id == identifier))
    connection.execute(insert(statistics).values(id=identifier, json=canonical_json(value).decode(), time=utc_now()))


def insert_kept(connection: Connection, patch: PatchId, *, parent: CommitId, message: str, details: JsonValue) -> None:
    delete_kept(connection, [patch])
    connection.execute(
        insert(kept).values(
            patch=patch, parent=parent, message=message, json=canonical_json(details).decode(), time=utc_now()
        )
    )


def delete_kept(connection: Connection, patches: Sequence[PatchId]) -> None:
    if patches:
        connection.execute(delete(kept).where(kept.c.patch.in_(list(patches))))


def kept_ids(connection: Connection) -> list[PatchId]:
    """Oldest first."""
    return [PatchId(p) for p in connection.execute(select(kept.c.patch).order_by(kept.c.time, kept.c.patch)).scalars()]


def load_kept(connection: Connection, patch: PatchId) -> KeptPatch:
    row = connection.execute(select(kept).where(kept.c.patch == patch)).one_or_none()
    if row is None:
        raise RevisionError(f"no patch {short(patch)} is kept here", hint="`memitvc status` lists the kept patches.")
    return KeptPatch(
        patch=load_patch(connection, patch),
        parent=CommitId(row.parent),
        message=row.message,
        details=json.loads(row.json),
        time=row.time,
    )
