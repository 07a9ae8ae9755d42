"""Constraints blobs: the keys and targets of a batch, kept so that histories can be re-solved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from memit_vc.errors import EngineError, IntegrityError, StorageError
from memit_vc.objects import METADATA_KEY, canonical_json
from memit_vc.store.safetensors_file import FileHeader, parse_header, read_header

__all__ = ["Constraints", "encode_constraints", "read_constraints"]

_METADATA = {METADATA_KEY: canonical_json({"format": 1, "kind": "constraints"}).decode()}
_HINT = "The blob is damaged. Run `memitvc fsck`; pull it again from a remote that has it."


@dataclass(frozen=True)
class Constraints:
    """Per weight K [d_in, n] and B [d_out, n] (targets relative to the base), and z [n, d_model]; all float32.

    Columns are in the order of the patch they belong to.
    """

    keys: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    z: Tensor

    @property
    def n(self) -> int:
        return int(self.z.shape[0])


def encode_constraints(keys: Mapping[str, Tensor], targets: Mapping[str, Tensor], z: Tensor) -> bytes:
    """The blob, float32, the same bytes for the same input. EngineError for sizes that disagree, NaN or infinity."""
    tensors = {f"{name}.keys": tensor for name, tensor in keys.items()}
    tensors |= {f"{name}.targets": tensor for name, tensor in targets.items()}
    tensors["z"] = z
    # clones: safetensors refuses tensors that share memory, as views of one batch do
    stored = {
        name: tensor.detach().cpu().float().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    problem = _problem(stored)
    if problem is not None:
        raise EngineError(f"the constraints cannot be stored: {problem}")
    return bytes(save(stored, _METADATA))


def read_constraints(source: Path | bytes, positions: Sequence[int] = ()) -> Constraints:
    """The constraints of the columns `positions` (none given: all). IntegrityError, StorageError."""
    where = str(source) if isinstance(source, Path) else "constraints"
    header = read_header(source) if isinstance(source, Path) else parse_header(source, len(source), source=where)
    _check_file(header, where)
    try:
        tensors = load(source.read_bytes() if isinstance(source, Path) else source)
    except SafetensorError as error:
        raise IntegrityError(f"{where}: not a whole safetensors file: {error}", hint=_HINT) from error
    except OSError as error:
        raise StorageError(f"{where}: cannot be read: {error.strerror}", hint="Check its permissions.") from error
    problem = _problem(tensors)
    n = tensors["z"].shape[0] if problem is None else 0
    if problem is None and not all(0 <= position < n for position in positions):
        problem = f"holds {n} columns, not {max(positions) + 1}"
    if problem is not None:
        raise IntegrityError(f"{where}: {problem}", hint=_HINT)
    index = torch.tensor(list(positions) or list(range(n)), dtype=torch.long)
    return Constraints(
        keys=_side(tensors, ".keys", index), targets=_side(tensors, ".targets", index), z=tensors["z"][index]
    )


def _side(tensors: Mapping[str, Tensor], suffix: str, index: Tensor) -> dict[str, Tensor]:
    return {
        name.removesuffix(suffix): tensor.index_select(1, index)
        for name, tensor in sorted(tensors.items())
        if name.endswith(suffix)
    }


def _check_file(header: FileHeader, where: str) -> None:
    if dict(header.metadata) != _METADATA:
        raise IntegrityError(f"{where}: is not a constraints blob of a format that this memit-vc reads", hint=_HINT)
    if any(entry.dtype != "F32" or len(entry.shape) != 2 for entry in header.tensors.values()):
        raise IntegrityError(f"{where}: holds a tensor that is not an F32 matrix", hint=_HINT)


def _problem(tensors: Mapping[str, Tensor]) -> str | None:
    if "z" not in tensors or any(tensor.dim() != 2 for tensor in tensors.values()):
        return "z is missing, or a tensor is not a matrix"
    keys = {name.removesuffix(".keys") for name in tensors if name.endswith(".keys")}
    targets = {name.removesuffix(".targets") for name in tensors if name.endswith(".targets")}
    if keys != targets or len(tensors) != 2 * len(keys) + 1:
        return f"keys and targets are not of the same weights: {sorted(tensors)}"
    n = tensors["z"].shape[0]
    for name, tensor in tensors.items():
        if name != "z" and tensor.shape[1] != n:
            return f"tensor {name!r} has {tensor.shape[1]} columns, z has {n} rows"
        if not bool(torch.isfinite(tensor).all()):
            return f"tensor {name!r} holds NaN or infinity"
    return None
