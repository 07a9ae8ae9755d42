"""Rows of what was measured or computed: evaluations, statistics."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, insert, select

from memit_vc.objects import CommitId, JsonValue, StateId, StatisticsId, canonical_json, finite, utc_now
from memit_vc.store.database import rows_with
from memit_vc.store.measured import check_measured
from memit_vc.store.parsed import parsed
from memit_vc.store.schema import evaluations, statistics


def measured(row: Row[Any]) -> JsonValue:
    """The value of a row of `evaluations`. IntegrityError if it cannot be read, or is none of its kind."""
    value: JsonValue = parsed("evaluation", row.key, row.json, partial(check_measured, row.kind))
    return value


def load_evaluations(
    connection: Connection, state: StateId, kind: str | None = None
) -> dict[tuple[str, str], JsonValue]:
    """(kind, key) → value."""
    statement = select(evaluations).where(evaluations.c.state == state).order_by(evaluations.c.id)
    if kind is not None:
        statement = statement.where(evaluations.c.kind == kind)
    return {(str(row.kind), str(row.key)): measured(row) for row in connection.execute(statement)}


def load_evaluations_of(connection: Connection, commits: Collection[CommitId], kind: str) -> dict[CommitId, JsonValue]:
    """The records of a kind whose key is the id of one of these commits."""
    rows = rows_with(connection, select(evaluations).where(evaluations.c.kind == kind), evaluations.c.key, commits)
    return {CommitId(row.key): measured(row) for row in rows}


def load_evaluations_by_state(connection: Connection, kind: str) -> dict[StateId, dict[str, JsonValue]]:
    """Every record of a kind: state → key → value."""
    found: dict[StateId, dict[str, JsonValue]] = {}
    for row in connection.execute(select(evaluations).where(evaluations.c.kind == kind).order_by(evaluations.c.id)):
        found.setdefault(StateId(row.state), {})[str(row.key)] = measured(row)
    return found


def replace_evaluation(
    connection: Connection, state: StateId, commit: CommitId | None, kind: str, key: str, value: JsonValue
) -> None:
    forget_evaluation(connection, state, kind, key)
    connection.execute(
        insert(evaluations).values(
            state=state, commit=commit, kind=kind, key=key, json=canonical_json(finite(value)).decode(), time=utc_now()
        )
    )


def forget_evaluation(connection: Connection, state: StateId, kind: str, key: str) -> None:
    table = evaluations.c
    connection.execute(delete(evaluations).where(and_(table.state == state, table.kind == kind, table.key == key)))


def load_statistics(connection: Connection) -> dict[StatisticsId, JsonValue]:
    statement = select(statistics).order_by(statistics.c.time, statistics.c.id)
    return {StatisticsId(row.id): parsed("statistics", row.id, row.json) for row in connection.execute(statement)}


def replace_statistics(connection: Connection, identifier: StatisticsId, value: JsonValue) -> None:
    connection.execute(delete(statistics).where(statistics.c.id == identifier))
    connection.execute(insert(statistics).values(id=identifier, json=canonical_json(value).decode(), time=utc_now()))
