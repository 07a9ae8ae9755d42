"""Patch and constraints blobs: encoded once, read with full validation, columns read lazily."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from memit_vc.errors import EngineError, IntegrityError, StorageError
from memit_vc.numerics.exact.constraints import Constraints, encode_constraints, read_constraints
from memit_vc.numerics.exact.grid import column_bounds, dense_bound, dense_off_grid, low_rank_off_grid
from memit_vc.numerics.exact.patchheader import check_layout, decode_header, expected_tensors
from memit_vc.objects import ColumnId, PatchHeader, PatchId, canonical_json, digest
from memit_vc.store.safetensors_file import FileHeader, parse_header, read_header

__all__ = [
    "Constraints",
    "Dense",
    "ExpectedPatch",
    "LowRank",
    "PatchTensors",
    "bounds",
    "check_patch",
    "column_ids",
    "encode_constraints",
    "encode_patch",
    "read_columns",
    "read_constraints",
    "read_patch",
    "read_patch_header",
    "read_pieces",
    "read_weight",
]

_PIECE = 512
"""Columns that `read_pieces` reads at once."""


@dataclass(frozen=True)
class LowRank:
    """D = left @ right in y = W x orientation: left [d_out, n], right [n, d_in], float32 on the grid."""

    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class Dense:
    """D itself, [d_out, d_in], float32 on the grid."""

    delta: Tensor


PatchTensors: TypeAlias = Mapping[str, "LowRank | Dense"]
"""Weight name (as in the checkpoint) -> its update."""


class ExpectedPatch(Protocol):
    """What the history says of a patch; `memit_vc.repository.Patch` is one."""

    @property
    def id(self) -> PatchId: ...
    @property
    def header(self) -> PatchHeader: ...
    @property
    def columns(self) -> tuple[ColumnId, ...]: ...
    @property
    def bounds(self) -> Mapping[str, tuple[float, ...]]: ...


def encode_patch(header: PatchHeader, tensors: PatchTensors) -> bytes:
    """The blob: safetensors bytes, the same for the same input on every machine.

    EngineError for tensors that do not fit the header or are not on the grid: nothing inexact is ever stored.
    """
    named = _named(tensors)
    problems = _content_problems(header, named)
    if problems:
        raise EngineError(f"the patch cannot be stored: {problems[0]}", hint="Snap every factor before it is encoded.")
    # clones: safetensors refuses tensors that share memory, as views of one batch do
    owned = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in named.items()}
    return bytes(save(owned, header.to_metadata()))


def read_patch(source: Path | bytes) -> tuple[PatchHeader, PatchTensors]:
    """Header and tensors of a blob, every rule of the format checked.

    IntegrityError for an unknown format version, a header that is not canonical or claims more than the file holds
    (seen before anything is allocated), missing or extra tensors, wrong dtypes or shapes, NaN or infinity, entries off
    the grid. StorageError where the system refuses the read.
    """
    where = _where(source)
    file = _file_header(source)
    header = decode_header(file.metadata, where)
    check_layout(header, file, where)
    named = _load(source)
    problems = _content_problems(header, named)
    if problems:
        raise IntegrityError(f"{where}: {problems[0]}", hint=_HINT)
    return header, {
        name: Dense(named[f"{name}.dense"])
        if form.form == "dense"
        else LowRank(named[f"{name}.left"], named[f"{name}.right"])
        for name, form in header.weights.items()
    }


def read_patch_header(source: Path | bytes) -> PatchHeader:
    """The header alone, checked against the file's layout; no tensor is read. Errors as for `read_patch`."""
    file = _file_header(source)
    header = decode_header(file.metadata, _where(source))
    check_layout(header, file, _where(source))
    return header


def column_ids(patch_id: PatchId, header: PatchHeader, tensors: PatchTensors) -> tuple[ColumnId, ...]:
    """One id per column, or one in all for an indivisible patch: one with a dense or joint weight."""
    if not header.divisible:
        return (ColumnId(digest("column", b"dense" + patch_id.encode())),)
    factors = [(name.encode(), _low_rank(tensors, name)) for name in sorted(header.weights)]
    columns = [(name, term.left.T.contiguous().numpy(), term.right.contiguous().numpy()) for name, term in factors]
    ids = []
    for i, column in enumerate(header.columns):
        payload = [canonical_json({"base": header.base, "fact": column.fact, "role": column.role})]
        for name, left, right in columns:
            payload += [name, left[i].astype("<f4").tobytes(), right[i].astype("<f4").tobytes()]
        ids.append(ColumnId(digest("column", b"".join(payload))))
    return tuple(ids)


def bounds(header: PatchHeader, tensors: PatchTensors) -> dict[str, tuple[float, ...]]:
    """Weight -> per column max|left|·max|right| in grid units; one figure in all for an indivisible patch."""
    found: dict[str, tuple[float, ...]] = {}
    for name, form in header.weights.items():
        term = tensors[name]
        if isinstance(term, Dense):
            found[name] = (dense_bound(term.delta, form.quantum),)
        else:
            per_column = column_bounds(term.left, term.right, form.quantum)
            found[name] = per_column if header.divisible else (sum(per_column),)
    return found


def read_columns(path: Path, positions: Sequence[int], weight: str) -> LowRank:
    """The columns `positions` (in that order; none given: all) of one weight, reading only its two tensors.

    IntegrityError where the patch has no such low-rank weight or no such column. The blob is taken at its word
    otherwise: `read_patch` checked it when it came in.
    """
    term = read_weight(path, positions, weight)
    if not isinstance(term, LowRank):
        raise IntegrityError(f"{path}: holds no low-rank update of {weight!r}", hint=_HINT)
    return term


def read_weight(path: Path, positions: Sequence[int], weight: str) -> LowRank | Dense | None:
    """As `read_columns`, but a dense update is read whole, and a weight that the patch leaves alone gives None."""
    with _opened(path) as file:
        names = set(file.keys())
        if f"{weight}.dense" in names:
            return Dense(file.get_tensor(f"{weight}.dense"))
        if f"{weight}.left" not in names:
            return None
        term = LowRank(file.get_tensor(f"{weight}.left"), file.get_tensor(f"{weight}.right"))
    _check_positions(path, positions, weight, term.right.shape[0])
    return _chosen(term, positions)


def read_pieces(path: Path, positions: Sequence[int], weight: str) -> Iterator[LowRank | Dense]:
    """As `read_weight`, some columns after the other, so that a patch of many is never whole in memory."""
    with _opened(path) as file:
        names = set(file.keys())
        left, right = f"{weight}.left", f"{weight}.right"
        columns = file.get_slice(right).get_shape()[0] if left in names else 0
    if columns <= _PIECE:
        found = read_weight(path, positions, weight)
        if found is not None:
            yield found
        return
    _check_positions(path, positions, weight, columns)
    for start in range(0, columns, _PIECE):
        stop = min(start + _PIECE, columns)
        wanted = [position - start for position in positions if start <= position < stop]
        if wanted or not positions:
            with _opened(path) as file:
                piece = LowRank(file.get_slice(left)[:, start:stop], file.get_slice(right)[start:stop])
            yield _chosen(piece, wanted)
            del piece


def check_patch(path: Path, expected: ExpectedPatch) -> list[str]:
    """What is wrong with a stored patch, one sentence each, for fsck; [] where it is what the history says."""
    try:
        header, tensors = read_patch(path)
    except (IntegrityError, StorageError) as error:
        return [error.message]
    problems = []
    if header != expected.header:
        problems.append(f"{path}: its header is not the one the history recorded")
    elif column_ids(expected.id, header, tensors) != tuple(expected.columns):
        problems.append(f"{path}: its columns are not the ones the history recorded")
    elif bounds(header, tensors) != {name: tuple(units) for name, units in expected.bounds.items()}:
        problems.append(f"{path}: its bounds are not the ones the history recorded")
    return problems


_HINT = "The blob is damaged. `memitvc fsck` lists what else is; pull it again from a remote that has it."


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise IntegrityError(f"{path}: not a whole safetensors file: {error}", hint=_HINT) from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error}", hint="Run `memitvc fsck`.") from error


def _check_positions(path: Path, positions: Sequence[int], weight: str, columns: int) -> None:
    if not all(0 <= position < columns for position in positions):
        raise IntegrityError(f"{path}: {weight!r} has {columns} columns, not {max(positions) + 1}", hint=_HINT)


def _chosen(term: LowRank, positions: Sequence[int]) -> LowRank:
    """Some columns of a term; none given: all."""
    if not positions:
        return term
    index = torch.tensor(positions)
    return LowRank(term.left.index_select(1, index), term.right.index_select(0, index))


def _where(source: Path | bytes) -> str:
    return str(source) if isinstance(source, Path) else "patch"


def _file_header(source: Path | bytes) -> FileHeader:
    if isinstance(source, Path):
        return read_header(source)
    return parse_header(source, len(source), source="patch")


def _load(source: Path | bytes) -> dict[str, Tensor]:
    try:
        loaded: dict[str, Tensor] = load(source.read_bytes() if isinstance(source, Path) else source)
        return loaded
    except SafetensorError as error:
        raise IntegrityError(f"{_where(source)}: not a whole safetensors file: {error}", hint=_HINT) from error
    except OSError as error:
        raise StorageError(f"{source!r}: cannot be read: {error.strerror}", hint="Check its permissions.") from error


def _named(tensors: PatchTensors) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name, term in tensors.items():
        if isinstance(term, Dense):
            named[f"{name}.dense"] = term.delta
        else:
            named[f"{name}.left"], named[f"{name}.right"] = term.left, term.right
    return named


def _low_rank(tensors: PatchTensors, name: str) -> LowRank:
    term = tensors[name]
    if isinstance(term, Dense):
        raise IntegrityError(f"{name!r} is dense, the patch's header says low_rank", hint=_HINT)
    return term


def _content_problems(header: PatchHeader, named: Mapping[str, Tensor]) -> list[str]:
    """Rules on the numbers, for patches read and for patches about to be written."""
    shapes = expected_tensors(header)
    if named.keys() != shapes.keys():
        return [f"its tensors are {sorted(named)}, its header says {sorted(shapes)}"]
    for name, shape in shapes.items():
        tensor = named[name]
        if tensor.dtype != torch.float32 or tuple(tensor.shape) != shape:
            return [f"tensor {name!r} is {tensor.dtype} {list(tensor.shape)}, its header says float32 {list(shape)}"]
        if not bool(torch.isfinite(tensor).all()):
            return [f"tensor {name!r} holds NaN or infinity"]
    for name, form in header.weights.items():
        if form.form == "dense":
            if dense_off_grid(named[f"{name}.dense"], form.quantum):
                return [f"tensor '{name}.dense' is off the grid 2^{form.quantum}"]
        else:
            off = low_rank_off_grid(named[f"{name}.left"], named[f"{name}.right"], form.quantum)
            if off:
                return [f"column {off[0]} of {name!r} is off the grid 2^{form.quantum} ({len(off)} such columns)"]
    return []
