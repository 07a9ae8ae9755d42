"""Rows of facts, patches and their columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from memit_vc.errors import IntegrityError
from memit_vc.objects import (
    BaseManifest,
    BlobId,
    ColumnId,
    CommitId,
    EditableWeight,
    Fact,
    FactId,
    Patch,
    PatchHeader,
    PatchId,
    canonical_json,
    short,
)
from memit_vc.store.database import insert_missing, known, rows_with
from memit_vc.store.parsed import bad_row, parsed
from memit_vc.store.schema import column_bounds, commit_patches, facts, patch_columns, patches

WITHOUT_FACT = "edit"
"""The role in the one row of a patch without facts."""


def insert_facts(connection: Connection, new: Sequence[Fact]) -> None:
    insert_missing(
        connection,
        facts,
        [
            {
                "id": fact.id,
                "json": canonical_json(fact.to_json()).decode(),
                "prompt": fact.prompt,
                "subject": fact.subject,
                "target": fact.target,
            }
            for fact in new
        ],
    )


def load_facts(connection: Connection, ids: Collection[FactId]) -> dict[FactId, Fact]:
    """IntegrityError names the first id that is not stored."""
    rows = rows_with(connection, select(facts.c.id, facts.c.json), facts.c.id, ids)
    found = {FactId(row.id): parsed("fact", row.id, row.json, Fact.from_json, kind="fact") for row in rows}
    for wanted in ids:
        if wanted not in found:
            raise IntegrityError(f"fact {short(wanted)} is not in this repository", hint="Run `memitvc fsck`.")
    return found


def insert_patch(connection: Connection, patch: Patch) -> bool:
    """A patch's rows. If the patch is stored already, only constraints that were missing are filled in: then True.

    IntegrityError if `columns` or `bounds` do not fit the header.
    """
    header = patch.header
    dense = not header.divisible
    expected = 1 if dense else len(header.columns)
    lengths = {"columns": len(patch.columns), **{f"bounds of {name}": len(b) for name, b in patch.bounds.items()}}
    for what, length in lengths.items():
        if length != expected:
            raise IntegrityError(f"patch {short(patch.id)}: {length} {what}, the header has {expected}")
    if set(patch.bounds) != set(header.weights):
        raise IntegrityError(f"patch {short(patch.id)}: the bounds and the header name different weights")
    if len(set(patch.columns)) != len(patch.columns):
        raise IntegrityError(
            f"patch {short(patch.id)} holds a column twice", hint="Leave one of them out: a state is a set of columns."
        )
    known = connection.execute(select(patches.c.constraints).where(patches.c.id == patch.id)).one_or_none()
    if known is not None:
        if known.constraints is None and patch.constraints is not None:
            connection.execute(update(patches).where(patches.c.id == patch.id).values(constraints=patch.constraints))
            return True
        return False
    connection.execute(
        insert(patches).values(
            id=patch.id,
            header=canonical_json(header.to_json()).decode(),
            dense=dense,
            constraints=patch.constraints,
            size=len(header.columns),
        )
    )
    rows: list[dict[str, object]] = [
        {
            "patch": patch.id,
            "position": position,
            "column": patch.columns[0 if dense else position],
            "fact": column.fact,
            "role": column.role,
        }
        for position, column in enumerate(header.columns)
    ]
    nothing = {"patch": patch.id, "position": 0, "column": patch.columns[0], "fact": None, "role": WITHOUT_FACT}
    connection.execute(insert(patch_columns), rows or [nothing])
    insert_missing(
        connection,
        column_bounds,
        [
            {"column": column, "weight": name, "bound": float(bound)}
            for name, bounds in patch.bounds.items()
            for column, bound in zip(patch.columns, bounds, strict=True)
        ],
    )
    return False


def load_patches(connection: Connection, ids: Collection[PatchId]) -> dict[PatchId, Patch]:
    """IntegrityError if one is not stored."""
    rows = {row.id: row for row in rows_with(connection, select(patches), patches.c.id, ids)}
    columns = _layout(connection, ids)
    held = {column for each in columns.values() for column in each}
    found = rows_with(connection, select(column_bounds), column_bounds.c.column, held)
    bounds = {(row.weight, row.column): _bound(row) for row in found}
    return {patch: _loaded(patch, rows.get(patch), columns.get(patch, ()), bounds) for patch in ids}


def _layout(connection: Connection, ids: Collection[PatchId]) -> dict[PatchId, tuple[ColumnId, ...]]:
    """The columns of patches, each once, in their order."""
    found: dict[PatchId, dict[ColumnId, None]] = {}
    held = select(patch_columns).order_by(patch_columns.c.patch, patch_columns.c.position)
    for row in rows_with(connection, held, patch_columns.c.patch, ids):
        found.setdefault(PatchId(row.patch), {})[ColumnId(row.column)] = None
    return {patch: tuple(columns) for patch, columns in found.items()}


def _loaded(
    patch: PatchId, row: Row[Any] | None, columns: tuple[ColumnId, ...], bounds: Mapping[tuple[str, str], float]
) -> Patch:
    if row is None:
        raise IntegrityError(f"patch {short(patch)} is not in this repository", hint="Run `memitvc fsck`.")
    header = parsed("patch", patch, row.header, PatchHeader.from_json)
    if len(columns) != (len(header.columns) if header.divisible else 1):
        raise bad_row("patch", patch, f"{len(columns)} columns have rows, its header has {len(header.columns)}")
    try:
        by_weight = {name: tuple(bounds[name, column] for column in columns) for name in header.weights}
    except KeyError as error:
        raise IntegrityError(
            f"patch {short(patch)}: a bound is missing: {error}", hint="Run `memitvc fsck`."
        ) from error
    return Patch(id=patch, header=header, columns=columns, bounds=by_weight, constraints=_constraints(row.constraints))


def known_columns(connection: Connection, columns: Collection[ColumnId]) -> set[ColumnId]:
    """Those of `columns` that some patch supplies."""
    return known(connection, patch_columns.c.column, columns)


def all_constraints(connection: Connection) -> dict[PatchId, BlobId | None]:
    """Every patch, with its constraints blob or None."""
    rows = connection.execute(select(patches.c.id, patches.c.constraints))
    return {PatchId(row.id): _constraints(row.constraints) for row in rows}


def _constraints(blob: str | None) -> BlobId | None:
    return None if blob is None else BlobId(blob)


def known_patches(connection: Connection, ids: Collection[PatchId]) -> set[PatchId]:
    """Those of `ids` that are stored."""
    return known(connection, patches.c.id, ids)


def column_facts(connection: Connection, columns: Collection[ColumnId]) -> dict[ColumnId, list[tuple[FactId, str]]]:
    """(fact, role) of each column; several for a dense patch, in the patch's order, none for an adapter."""
    found: dict[ColumnId, dict[tuple[FactId, str], None]] = {column: {} for column in columns}
    statement = select(patch_columns).order_by(patch_columns.c.patch, patch_columns.c.position)
    for row in rows_with(connection, statement, patch_columns.c.column, columns):
        if row.fact is not None:
            found[ColumnId(row.column)][FactId(row.fact), row.role] = None
    return {column: list(pairs) for column, pairs in found.items()}


def patches_holding(
    connection: Connection, columns: Collection[ColumnId]
) -> tuple[dict[PatchId, tuple[ColumnId, ...]], set[PatchId], dict[PatchId, BlobId | None]]:
    """The patches that supply one of `columns`: the columns of each, the dense ones, and the constraints of each."""
    holding = rows_with(connection, select(patch_columns.c.patch).distinct(), patch_columns.c.column, columns)
    touched = {PatchId(row.patch) for row in holding}
    rows = list(rows_with(connection, select(patches), patches.c.id, touched))
    dense = {PatchId(row.id) for row in rows if row.dense}
    return _layout(connection, touched), dense, {PatchId(row.id): _constraints(row.constraints) for row in rows}


def column_positions(connection: Connection, brought: Mapping[ColumnId, CommitId]) -> dict[ColumnId, int]:
    """Each column's position in its patch: in one that the commit in `brought` names, else in the first by id."""
    rows = rows_with(connection, select(commit_patches), commit_patches.c.commit, set(brought.values()))
    named = {(row.commit, row.patch) for row in rows}
    found: dict[ColumnId, tuple[bool, str, int]] = {}
    for row in rows_with(connection, select(patch_columns), patch_columns.c.column, brought):
        column = ColumnId(row.column)
        candidate = ((brought[column], row.patch) not in named, str(row.patch), int(row.position))
        found[column] = min(found.get(column, candidate), candidate)
    return {column: position for column, (_, _, position) in found.items()}


def _bound(row: Row[Any]) -> float:
    if type(row.bound) is not float:
        raise bad_row("column", row.column, "its bound is not a number")
    return row.bound


def headers_without_facts(connection: Connection) -> list[PatchHeader]:
    """Those of the adapters."""
    theirs = select(patch_columns.c.patch).where(patch_columns.c.fact.is_(None))  # there is an index of it
    rows = connection.execute(select(patches.c.id, patches.c.header).where(patches.c.id.in_(theirs)))
    return [parsed("patch", row.id, row.header, PatchHeader.from_json) for row in rows]


def more_weights(
    connection: Connection, known: Collection[EditableWeight], base: Callable[[], BaseManifest]
) -> list[EditableWeight]:
    """The weights that adapters describe, without those that are known, by name."""
    found: dict[str, EditableWeight] = {}
    try:
        for header in headers_without_facts(connection):
            found |= {weight.name: weight for weight in header.described(base())}
    except ValueError as error:
        raise IntegrityError(f"a patch without facts: {error}", hint="Run `memitvc fsck`.") from error
    return [found[name] for name in sorted(found.keys() - {weight.name for weight in known})]


def edited_weights(connection: Connection) -> set[str]:
    """The weights that any stored patch touches."""
    return set(connection.execute(select(column_bounds.c.weight).distinct()).scalars())


def sum_bounds(connection: Connection, columns: Collection[ColumnId]) -> dict[str, float]:
    """Per weight, the sum of the columns' bounds in grid units."""
    collected: dict[str, list[float]] = {}
    for row in rows_with(connection, select(column_bounds), column_bounds.c.column, columns):
        collected.setdefault(row.weight, []).append(_bound(row))
    return {name: math.fsum(values) for name, values in sorted(collected.items())}
