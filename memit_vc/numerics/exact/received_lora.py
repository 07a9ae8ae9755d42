"""The numbers of a PEFT LoRA that someone else made: read with suspicion, and put on the grid.

PEFT adds s · B A to a weight in y = W x orientation, whatever the module's own: B [d_out, r] and A [r, d_in].
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memit_vc.errors import EngineError, IntegrityError, StorageError, UnsupportedModelError
from memit_vc.foreign.files import opened
from memit_vc.numerics.exact.factored import Dense, LowRank, Term
from memit_vc.numerics.exact.grid import COLUMN_BITS, break_even, snap, snap_dense
from memit_vc.objects import EditableWeight
from memit_vc.store.safetensors_file import Entry, read_header

_PREFIX = "base_model.model."
_SIDES = (".lora_A.weight", ".lora_B.weight")
_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_AGAIN = "Get the adapter again, or save it again with PEFT."


class LoraFile:
    """An adapter's weights, by the path of the module in the model. Use `lora_file`."""

    def __init__(self, path: Path, data: mmap.mmap, start: int, pairs: dict[str, tuple[Entry, Entry]]) -> None:
        self.path, self._data, self._start, self._pairs = path, data, start, pairs

    @property
    def modules(self) -> list[str]:
        return sorted(self._pairs)

    def rank(self, module: str) -> int:
        return self._pairs[module][0].shape[0]

    def term(self, module: str, scale: float, weight: EditableWeight) -> Term | None:
        """`scale` · B A on the weight's grid; None if it is zero there. Where factors would be no smaller, or cannot
        hold it, it is one matrix.

        IntegrityError for matrices that do not fit the weight or hold no numbers, EngineError if the grid cannot hold
        it.
        """
        down, up = self._pairs[module]
        if (up.shape[0], down.shape[1]) != (weight.d_out, weight.d_in) or up.shape[1] != down.shape[0]:
            raise IntegrityError(
                f"{self.path}: {module} has factors {list(up.shape)} and {list(down.shape)}, the base's weight is "
                f"{weight.d_out} × {weight.d_in}",
                hint="Use the model that the adapter was trained on.",
            )
        right, left = self._read(down), self._read(up) * scale
        if not (np.isfinite(left).all() and np.isfinite(right).all()):
            raise IntegrityError(f"{self.path}: {module} holds NaN or infinity", hint=_AGAIN)
        try:
            if len(right) <= break_even(weight.d_out, weight.d_in):
                low = LowRank(*snap(left, right, weight.quantum, most_bits=COLUMN_BITS))
                return low if low.left.any() else None
        except EngineError:
            pass  # one column of it is too large; the sum may not be
        try:
            whole = Dense(snap_dense(left @ right, weight.quantum))
        except EngineError as error:
            raise EngineError(
                f"{self.path}: {module}: {error.message}", hint="The adapter is not of this model, or has diverged."
            ) from error
        return whole if whole.delta.any() else None

    def _read(self, entry: Entry) -> NDArray[np.float64]:
        kind = _KINDS[entry.dtype]
        found = np.frombuffer(self._data, kind, math.prod(entry.shape), self._start + entry.begin)
        if entry.dtype == "BF16":
            found = (found.astype(np.uint32) << 16).view(np.float32)
        return found.reshape(entry.shape).astype(np.float64)


@contextmanager
def lora_file(path: Path) -> Iterator[LoraFile]:
    """Open the weights of an adapter. IntegrityError for what is no whole safetensors file or lacks half of a pair,
    UnsupportedModelError for tensors that are no part of a plain LoRA, StorageError if the system refuses.
    """
    header = read_header(path)
    pairs: dict[str, dict[str, Entry]] = {}
    for name, entry in header.tensors.items():
        side = next((side for side in _SIDES if name.endswith(side)), None)
        if side is None or not name.startswith(_PREFIX):
            raise UnsupportedModelError(
                f"{path}: holds {name!r}, which is not a part of a plain LoRA on a module of the model",
                hint="Merge the adapter with PEFT (merge_and_unload), and start a repository on the merged model.",
            )
        if len(entry.shape) != 2 or not all(entry.shape) or entry.dtype not in _KINDS:
            raise UnsupportedModelError(
                f"{path}: {name!r} is {entry.dtype} {list(entry.shape)}, not a matrix of plain floats", hint=_AGAIN
            )
        pairs.setdefault(name.removeprefix(_PREFIX).removesuffix(side), {})[side] = entry
    half = next((module for module, found in sorted(pairs.items()) if len(found) < len(_SIDES)), None)
    if half is not None or not pairs:
        what = f"has only one of lora_A and lora_B for {half!r}" if half is not None else "holds no tensors"
        raise IntegrityError(f"{path}: {what}", hint=_AGAIN)
    try:
        with opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as data:
            both = {module: (found[_SIDES[0]], found[_SIDES[1]]) for module, found in pairs.items()}
            yield LoraFile(path, data, header.data_start, both)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot be read: {error}", hint="Check its permissions.") from error
