"""Constraints blobs: the keys and targets of a batch, kept so that histories can be re-solved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memit_vc.errors import EngineError, IntegrityError
from memit_vc.numerics.exact.blob import Blob, encode
from memit_vc.numerics.exact.grid import Floats
from memit_vc.objects import METADATA_KEY, canonical_json

_METADATA = {METADATA_KEY: canonical_json({"format": 1, "kind": "constraints"}).decode()}
_HINT = "Pull the damaged blob again from a remote that has it; `memitvc fsck` lists other damage."


@dataclass(frozen=True)
class Constraints:
    """Per weight K [d_in, n] and B [d_out, n] (targets relative to the base), and z [n, d_model]; all float32.

    The experts of a layer have the same targets: they are stored once, under the name of one of them.
    Columns are in the order of the patch they belong to.
    """

    keys: Mapping[str, Floats]
    targets: Mapping[str, Floats]
    z: Floats

    @property
    def n(self) -> int:
        return len(self.z)

    def select(self, positions: Sequence[int]) -> Constraints:
        """Those of some columns, in the given order (none given: all), in memory of their own."""
        chosen = positions or range(self.n)
        keys, targets = (
            {name: array.take(chosen, axis=1) for name, array in side.items()} for side in (self.keys, self.targets)
        )
        return Constraints(keys, targets, self.z.take(chosen, axis=0))

    @classmethod
    def joined(cls, parts: Sequence[Constraints]) -> Constraints:
        """Those of several, column after column; all are of the same weights."""
        return cls(
            {name: np.concatenate([part.keys[name] for part in parts], axis=1) for name in parts[0].keys},
            {name: np.concatenate([part.targets[name] for part in parts], axis=1) for name in parts[0].targets},
            np.concatenate([part.z for part in parts]),
        )


def encode_constraints(keys: Mapping[str, Floats], targets: Mapping[str, Floats], z: Floats) -> bytes:
    """The blob, float32, the same bytes for the same input. EngineError for sizes that disagree, NaN or infinity."""
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused
        stored = {f"{name}.keys": array.astype(np.float32) for name, array in keys.items()}
        stored |= {f"{name}.targets": array.astype(np.float32) for name, array in targets.items()}
        stored["z"] = z.astype(np.float32)
    problem = _problem(stored)
    if problem is not None:
        raise EngineError(f"the constraints cannot be stored: {problem}")
    return encode(stored, _METADATA)


def read_constraints(source: Path | bytes, positions: Sequence[int] = ()) -> Constraints:
    """The constraints of the columns `positions` (none given: all). IntegrityError, StorageError."""
    blob = Blob(source, str(source) if isinstance(source, Path) else "constraints")
    if dict(blob.header.metadata) != _METADATA:
        raise IntegrityError(
            f"{blob.where}: is not a constraints blob of a format that this memit-vc reads", hint=_HINT
        )
    if any(entry.dtype != "F32" or len(entry.shape) != 2 for entry in blob.header.tensors.values()):
        raise IntegrityError(f"{blob.where}: holds a tensor that is not an F32 matrix", hint=_HINT)
    stored = {name: blob[name] for name in sorted(blob.header.tensors)}
    problem = _problem(stored)
    if problem is None and not all(0 <= position < len(stored["z"]) for position in positions):
        problem = f"holds {len(stored['z'])} columns, not {max(positions) + 1}"
    if problem is not None:
        raise IntegrityError(f"{blob.where}: {problem}", hint=_HINT)
    keys, targets = (
        {name.removesuffix(side): array for name, array in stored.items() if name.endswith(side)}
        for side in (".keys", ".targets")
    )
    return Constraints(keys, targets, stored["z"]).select(positions)


def _problem(arrays: Mapping[str, Floats]) -> str | None:
    if "z" not in arrays or any(array.ndim != 2 for array in arrays.values()):
        return "z is missing, or a tensor is not a matrix"
    keys = {name.removesuffix(".keys") for name in arrays if name.endswith(".keys")}
    targets = {name.removesuffix(".targets") for name in arrays if name.endswith(".targets")}
    if not targets <= keys or (keys and not targets) or len(arrays) != len(keys) + len(targets) + 1:
        return f"keys and targets are not of the same weights: {sorted(arrays)}"
    n = len(arrays["z"])
    for name, array in arrays.items():
        if name != "z" and array.shape[1] != n:
            return f"tensor {name!r} has {array.shape[1]} columns, z has {n} rows"
        if not np.isfinite(array).all():
            return f"tensor {name!r} holds NaN or infinity"
    return None
