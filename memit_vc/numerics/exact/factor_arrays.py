"""Patches and constraints as numpy arrays, for verbs that only move or measure factors: torch takes seconds to load.

Sources are blobs of this repository, checked when they came in; what is written here is checked again by
`read_back`, from its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from memit_vc.errors import IntegrityError, StorageError
from memit_vc.objects import METADATA_KEY, ColumnId, PatchHeader, canonical_json, digest

__all__ = [
    "Arrays",
    "Factors",
    "column_bounds",
    "column_ids",
    "encode",
    "encode_constraints",
    "read_arrays",
    "read_back",
    "read_constraints",
]

Floats: TypeAlias = NDArray[np.float32]
Arrays: TypeAlias = Mapping[str, Floats]
"""Tensor name -> float32 array."""

_CONSTRAINTS = {METADATA_KEY: canonical_json({"format": 1, "kind": "constraints"}).decode()}
_HINT = "The blob is damaged. `memitvc fsck` lists what else is; pull it again from a remote that has it."


@dataclass(frozen=True)
class Factors:
    """One weight's columns: left [d_out, n] and right [n, d_in], float32 on the grid."""

    left: Floats
    right: Floats

    def select(self, positions: Sequence[int]) -> Factors:
        chosen = list(positions)
        return Factors(self.left[:, chosen], self.right[chosen])


def read_arrays(path: Path) -> dict[str, Floats]:
    """Every tensor of a safetensors blob. IntegrityError for a file that is cut short, StorageError."""
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise IntegrityError(f"{path}: not a whole safetensors file: {error}", hint=_HINT) from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}", hint="Check its permissions.") from error


def column_ids(header: PatchHeader, factors: Mapping[str, Factors]) -> tuple[ColumnId, ...]:
    """The id of each column of a divisible patch (docs/architecture.md)."""
    rows = [
        (name.encode(), factors[name].left.T.astype("<f4", order="C"), factors[name].right.astype("<f4", order="C"))
        for name in sorted(header.weights)
    ]
    ids = []
    for i, column in enumerate(header.columns):
        payload = [canonical_json({"base": header.base, "fact": column.fact, "role": column.role})]
        for name, left, right in rows:
            payload += [name, left[i].tobytes(), right[i].tobytes()]
        ids.append(ColumnId(digest("column", b"".join(payload))))
    return tuple(ids)


def column_bounds(header: PatchHeader, factors: Mapping[str, Factors]) -> dict[str, tuple[float, ...]]:
    """Weight -> per column max|left|·max|right| in grid units. Exact for grid factors."""
    found = {}
    for name, form in header.weights.items():
        left = np.abs(factors[name].left).max(axis=0, initial=0.0).astype(np.float64)
        right = np.abs(factors[name].right).max(axis=1, initial=0.0).astype(np.float64)
        found[name] = tuple(float(v) for v in np.ldexp(left * right, -form.quantum))
    return found


def encode(header: PatchHeader, factors: Mapping[str, Factors]) -> bytes:
    """The blob of a divisible patch: the same bytes that `numerics.patchfile.encode_patch` gives."""
    arrays = {}
    for name, term in factors.items():
        arrays[f"{name}.left"] = np.ascontiguousarray(term.left)
        arrays[f"{name}.right"] = np.ascontiguousarray(term.right)
    return bytes(save(arrays, header.to_metadata()))


def read_back(blob: bytes, header: PatchHeader) -> dict[str, Factors]:
    """The factors of a blob that was just made."""
    arrays = load(blob)
    return {name: Factors(arrays[f"{name}.left"], arrays[f"{name}.right"]) for name in header.weights}


def read_constraints(path: Path, positions: Sequence[int]) -> dict[str, Floats]:
    """The tensors of a constraints blob for some columns: `<weight>.keys`, `<weight>.targets` and `z`."""
    chosen = list(positions)
    return {
        name: array[chosen] if name == "z" else array[:, chosen] for name, array in sorted(read_arrays(path).items())
    }


def encode_constraints(parts: Sequence[Arrays]) -> bytes:
    """One constraints blob of several, column after column; all have the same tensors."""
    joined = {
        name: np.ascontiguousarray(np.concatenate([part[name] for part in parts], axis=0 if name == "z" else 1))
        for name in parts[0]
    }
    return bytes(save(joined, _CONSTRAINTS))
