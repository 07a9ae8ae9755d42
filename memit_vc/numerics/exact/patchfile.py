"""Patch blobs: encoded once, read with full validation, columns read lazily. No torch: it takes seconds to load."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from memit_vc.errors import EngineError, IntegrityError, StorageError
from memit_vc.numerics.exact.blob import Blob, encode
from memit_vc.numerics.exact.factored import Dense, LowRank, Term
from memit_vc.numerics.exact.grid import Floats
from memit_vc.objects import (
    METADATA_KEY,
    ColumnId,
    JsonValue,
    Patch,
    PatchHeader,
    PatchId,
    WeightForm,
    canonical_json,
    digest,
    is_sha256,
)
from memit_vc.objects.patch import FORMAT_WITHOUT_FACTS, PATCH_FORMAT

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
    # before any is read
    problem = _layout_problem(header, {name: (entry.dtype, entry.shape) for name, entry in blob.header.tensors.items()})
    tensors = {} if problem else {name: term for name in header.weights if (term := _term(blob, name)) is not None}
    problem = problem or _problem(header, tensors)
    if problem is not None:
        raise IntegrityError(f"{blob.where}: {problem}", hint=_HINT)
    return header, tensors


def decode_header(metadata: Mapping[str, str], where: str) -> PatchHeader:
    """The header in a safetensors `__metadata__`, which must be exactly what `PatchHeader.to_metadata` gives.

    IntegrityError for anything else; a format version that this release does not know is said first.
    """
    if set(metadata) != {METADATA_KEY}:
        raise IntegrityError(f"{where}: is not a patch: its metadata keys are {sorted(metadata)}", hint=_FOREIGN)
    try:
        record = json.loads(metadata[METADATA_KEY])
        version = record["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{where}: is not a patch: its metadata has no format version", hint=_FOREIGN) from error
    if version not in (PATCH_FORMAT, FORMAT_WITHOUT_FACTS):
        raise IntegrityError(
            f"{where}: has patch format {version!r}, this memit-vc reads {PATCH_FORMAT} and {FORMAT_WITHOUT_FACTS}",
            hint="Upgrade memit-vc.",
        )
    try:
        header = PatchHeader.from_json(record)
        canonical = header.to_metadata() == dict(metadata)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise IntegrityError(
            f"{where}: its header lacks a field or has one of another type: {error}", hint=_FOREIGN
        ) from error
    problem = _header_problem(header)
    if problem is None and not canonical:
        problem = "is not canonical JSON of the fields that the format has"
    if problem is not None:
        raise IntegrityError(f"{where}: its header {problem}", hint=_FOREIGN)
    return header


def _expected_tensors(header: PatchHeader) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, as the header implies them."""
    n = len(header.columns)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, form in header.weights.items():
        if form.form == "dense":
            shapes[f"{name}.dense"] = (form.d_out, form.d_in)
        else:
            rank = n if form.rank is None else form.rank
            shapes[f"{name}.left"], shapes[f"{name}.right"] = (form.d_out, rank), (rank, form.d_in)
    return shapes


def column_ids(patch_id: PatchId, header: PatchHeader, tensors: PatchTensors) -> tuple[ColumnId, ...]:
    """One id per column, or one in all for an indivisible patch: one with a dense or joint weight. That of an adapter
    depends on its numbers alone: two people who import it have the same column, whatever they call it.
    """
    if not header.columns:
        forms: JsonValue = {name: form.to_json() for name, form in header.weights.items()}
        parts = [b"adapter", canonical_json([header.base, forms])]
        terms = [tensors[weight] for weight in sorted(header.weights)]
        parts += [np.ascontiguousarray(array, "<f4").tobytes() for term in terms for array in term.arrays.values()]
        return (ColumnId(digest("column", b"".join(parts))),)
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


_FOREIGN = "Fetch the blob again: it is damaged, or was not written by memit-vc."
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


def _layout_problem(header: PatchHeader, found: Mapping[str, tuple[str, tuple[int, ...]]]) -> str | None:
    """Tensors by name with dtype and shape, against those that the header implies."""
    expected = _expected_tensors(header)
    if found.keys() != expected.keys():
        return f"its tensors are {sorted(found)}, its header says {sorted(expected)}"
    for name, shape in expected.items():
        dtype, given = found[name]
        if dtype != "F32" or given != shape:
            return f"tensor {name!r} is {dtype} {list(given)}, its header says F32 {list(shape)}"
    return None


def _problem(header: PatchHeader, tensors: PatchTensors) -> str | None:
    """Rules on the numbers, for patches read and for patches about to be written."""
    named = _named(tensors)
    dtypes = {name: "F32" if array.dtype == np.float32 else str(array.dtype) for name, array in named.items()}
    problem = _layout_problem(header, {name: (dtypes[name], array.shape) for name, array in named.items()})
    if problem is not None:
        return problem
    for name, array in named.items():
        if not np.isfinite(array).all():
            return f"tensor {name!r} holds NaN or infinity"
    for name, form in header.weights.items():
        off = tensors[name].off_grid(form.quantum)
        if off and form.form == "dense":
            return f"tensor '{name}.dense' is off the grid 2^{form.quantum}"
        if off:
            return f"column {off[0]} of {name!r} is off the grid 2^{form.quantum} ({len(off)} such columns)"
    return None


def _header_problem(header: PatchHeader) -> str | None:
    hashes = [header.base, *(column.fact for column in header.columns)]
    if header.provenance is not None:
        hashes.append(header.provenance)
    if not all(map(is_sha256, hashes)):
        return "has a base, fact or provenance that is not a SHA-256"
    if (not header.columns and header.divisible) or not header.weights:
        return "lists no columns or no weights"
    if any(column.role not in ("edit", "cancel") for column in header.columns):
        return "has a column whose role is neither edit nor cancel"
    for name, form in header.weights.items():
        numbers = (form.d_out, form.d_in, form.quantum)
        if not all(type(number) is int for number in numbers) or min(form.d_out, form.d_in) < 1:
            return f"gives weight {name!r} sizes or a quantum that are not whole numbers"
        if form.form not in ("low_rank", "joint", "dense") or not -256 < form.quantum < 256:
            return f"gives weight {name!r} the form {form.form!r} and the quantum {form.quantum}"
        if (form.form == "joint") != (type(form.rank) is int and form.rank >= 0):
            return f"gives weight {name!r} the form {form.form!r} and the rank {form.rank!r}"
        problem = _place_problem(name, form, facts=bool(header.columns))
        if problem is not None:
            return problem
    return None


def _place_problem(name: str, form: WeightForm, *, facts: bool) -> str | None:
    """Only a patch without facts says where its weights are in the model, and it says so of all."""
    said = (form.parameter, form.layer, form.orientation)
    if facts:
        return None if said == (None, None, None) else f"says where {name!r} is, as patches of facts do not"
    whole = isinstance(form.parameter, str) and type(form.layer) is int and form.layer >= 0
    if not whole or form.orientation not in ("out_in", "in_out") or form.form == "low_rank":
        return f"does not say where {name!r} is in the model, or gives it columns of facts, which it has not"
    return None
