"""Patch blobs: encoded once, read with full validation, columns read lazily. No torch: it takes seconds to load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from memit_vc.errors import EngineError, IntegrityError, StorageError
from memit_vc.numerics.exact.blob import Blob, encode
from memit_vc.numerics.exact.factored import Dense, LowRank, Term
from memit_vc.numerics.exact.grid import Floats
from memit_vc.numerics.exact.patchheader import check_layout, decode_header, expected_tensors
from memit_vc.objects import ColumnId, Patch, PatchHeader, PatchId, canonical_json, digest

_PIECE = 512
"""Columns that `read_pieces` reads at once."""

PatchTensors: TypeAlias = Mapping[str, Term]
"""Weight name (as in the checkpoint) -> its update."""


def encode_patch(header: PatchHeader, tensors: PatchTensors) -> bytes:
    """The blob: safetensors bytes, the same for the same input on every machine.

    EngineError for tensors that do not fit the header or are not on the grid: nothing inexact is ever stored.
    """
    problem = _problem(header, tensors)
    if problem is not None:
        raise EngineError(f"the patch cannot be stored: {problem}", hint="Snap every factor before it is encoded.")
    return encode(_named(tensors), header.to_metadata())


def read_patch(source: Path | bytes) -> tuple[PatchHeader, PatchTensors]:
    """Header and tensors of a blob, every rule of the format checked.

    IntegrityError for an unknown format version, a header that is not canonical or claims more than the file holds
    (seen before anything is allocated), missing or extra tensors, wrong dtypes or shapes, NaN or infinity, entries off
    the grid. StorageError if the system refuses the read.
    """
    blob = Blob(source, str(source) if isinstance(source, Path) else "patch")
    header = decode_header(blob.header.metadata, blob.where)
    check_layout(header, blob.header, blob.where)
    tensors = {name: term for name in header.weights if (term := _term(blob, name)) is not None}
    problem = _problem(header, tensors)
    if problem is not None:
        raise IntegrityError(f"{blob.where}: {problem}", hint=_HINT)
    return header, tensors


def column_ids(patch_id: PatchId, header: PatchHeader, tensors: PatchTensors) -> tuple[ColumnId, ...]:
    """One id per column, or one in all for an indivisible patch: one with a dense or joint weight."""
    if not header.divisible:
        return (ColumnId(digest("column", b"dense" + patch_id.encode())),)
    factors = [(name.encode(), _low_rank(tensors, name)) for name in sorted(header.weights)]
    rows = [
        (name, np.ascontiguousarray(term.left.T, "<f4"), np.ascontiguousarray(term.right, "<f4"))
        for name, term in factors
    ]
    ids = []
    for i, column in enumerate(header.columns):
        payload = [canonical_json({"base": header.base, "fact": column.fact, "role": column.role})]
        for name, left, right in rows:
            payload += [name, left[i].tobytes(), right[i].tobytes()]
        ids.append(ColumnId(digest("column", b"".join(payload))))
    return tuple(ids)


def bounds(header: PatchHeader, tensors: PatchTensors) -> dict[str, tuple[float, ...]]:
    """Weight -> per column max|left|·max|right| in grid units; one figure in all for an indivisible patch."""
    found = {name: tensors[name].bounds(form.quantum) for name, form in header.weights.items()}
    return found if header.divisible else {name: (sum(units),) for name, units in found.items()}


def read_weight(path: Path, positions: Sequence[int], weight: str) -> Term | None:
    """The columns `positions` (in that order; none given: all) of one weight; a dense update whole, and None if the
    patch leaves the weight alone.

    The numbers are copied out of the file, of which many may be needed at once: each that is mapped is open as well.
    IntegrityError if the patch has no such column. The blob is taken at its word otherwise: `read_patch` checked it
    when it came in.
    """
    term = _term(Blob(path, str(path)), weight)
    if not isinstance(term, LowRank):
        return None if term is None else Dense(term.delta.copy())
    if not all(0 <= position < term.rank for position in positions):
        raise IntegrityError(f"{path}: {weight!r} has {term.rank} columns, not {max(positions) + 1}", hint=_HINT)
    return term.select(positions)


def read_pieces(path: Path, positions: Sequence[int], weight: str) -> Iterator[Term]:
    """As `read_weight`, some columns after the other, so that a patch of many is never whole in memory."""
    parts, whole = [positions], _term(Blob(path, str(path)), weight)
    if isinstance(whole, LowRank) and whole.rank > _PIECE:
        chosen = positions or range(whole.rank)
        parts = [chosen[start : start + _PIECE] for start in range(0, len(chosen), _PIECE)]
    del whole  # or all that was looked at stays mapped
    for part in parts:
        term = read_weight(path, part, weight)
        if term is not None:
            yield term
        del term


def state_terms(
    read: Callable[[PatchId], Path], selection: Mapping[PatchId, tuple[int, ...]], weight_name: str
) -> list[Term]:
    """The terms of a state for one weight: `selection` maps each patch to its live columns, () meaning all of it.

    Patches that leave the weight alone give none. Sorted by patch, for the reader of a debugger; the sum has no order.
    """
    found = (read_weight(read(patch), positions, weight_name) for patch, positions in sorted(selection.items()))
    return [term for term in found if term is not None]


def check_patch(path: Path, expected: Patch) -> list[str]:
    """What is wrong with a stored patch, one sentence each, for fsck; [] if it is what the history says."""
    try:
        header, tensors = read_patch(path)
    except (IntegrityError, StorageError) as error:
        return [error.message]
    problems = []
    if header != expected.header:
        problems.append(f"{path}: its header is not the one the history recorded")
    elif column_ids(expected.id, header, tensors) != expected.columns:
        problems.append(f"{path}: its columns are not the ones the history recorded")
    elif bounds(header, tensors) != {name: tuple(units) for name, units in expected.bounds.items()}:
        problems.append(f"{path}: its bounds are not the ones the history recorded")
    return problems


_HINT = "Pull the damaged blob again from a remote that has it; `memitvc fsck` lists other damage."


def _term(blob: Blob, weight: str) -> Term | None:
    """What a patch does to a weight, as it lies in the blob."""
    if f"{weight}.dense" in blob:
        return Dense(blob[f"{weight}.dense"])
    if f"{weight}.left" in blob:
        return LowRank(blob[f"{weight}.left"], blob[f"{weight}.right"])
    return None


def _low_rank(tensors: PatchTensors, name: str) -> LowRank:
    term = tensors[name]
    if isinstance(term, Dense):
        raise IntegrityError(f"{name!r} is dense, the patch's header says low_rank", hint=_HINT)
    return term


def _named(tensors: PatchTensors) -> dict[str, Floats]:
    return {f"{name}.{part}": array for name, term in tensors.items() for part, array in term.arrays.items()}


def _problem(header: PatchHeader, tensors: PatchTensors) -> str | None:
    """Rules on the numbers, for patches read and for patches about to be written."""
    named, shapes = _named(tensors), expected_tensors(header)
    if named.keys() != shapes.keys():
        return f"its tensors are {sorted(named)}, its header says {sorted(shapes)}"
    for name, shape in shapes.items():
        array = named[name]
        if array.dtype != np.float32 or array.shape != shape:
            return f"tensor {name!r} is {array.dtype} {list(array.shape)}, its header says float32 {list(shape)}"
        if not np.isfinite(array).all():
            return f"tensor {name!r} holds NaN or infinity"
    for name, form in header.weights.items():
        off = tensors[name].off_grid(form.quantum)
        if off and form.form == "dense":
            return f"tensor '{name}.dense' is off the grid 2^{form.quantum}"
        if off:
            return f"column {off[0]} of {name!r} is off the grid 2^{form.quantum} ({len(off)} such columns)"
    return None
