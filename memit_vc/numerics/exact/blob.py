"""Safetensors blobs of float32 arrays: written whole, read array by array.

A file is mapped, so nothing is copied, and it is open for as long as an array of it is in use: what is kept of many
files has to be copied out of them.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from memit_vc.errors import IntegrityError, StorageError
from memit_vc.numerics.exact.grid import Floats
from memit_vc.store.safetensors_file import parse_header, read_header, write_header

_FLOAT = np.dtype("<f4")


class Blob:
    """The checked header of a blob, which names the arrays; `where` is what errors call it."""

    def __init__(self, source: Path | bytes, where: str) -> None:
        """IntegrityError for anything but a whole safetensors file, StorageError if the system refuses the read."""
        self.where = where
        self._data: bytes | mmap.mmap
        if isinstance(source, bytes):
            self.header, self._data = parse_header(source, len(source), source=where), source
            return
        self.header = read_header(source)
        try:
            with source.open("rb") as file:
                # nothing is ever written to it; mapped as writable because torch warns of what is not
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise StorageError(f"{where}: cannot be read: {error}", hint="Check its permissions.") from error

    def __contains__(self, name: str) -> bool:
        return name in self.header.tensors

    def __getitem__(self, name: str) -> Floats:
        """An array that lives in the blob. IntegrityError if it is not F32."""
        entry = self.header.tensors[name]
        if entry.dtype != "F32":
            raise IntegrityError(f"{self.where}: tensor {name!r} is {entry.dtype}, not F32", hint="Run `memitvc fsck`.")
        found = np.frombuffer(self._data, _FLOAT, math.prod(entry.shape), self.header.data_start + entry.begin)
        return found.reshape(entry.shape)


def encode(arrays: Mapping[str, Floats], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a blob: the same for equal arrays, however they lie in memory."""
    head = write_header({name: ("F32", array.shape) for name, array in arrays.items()}, metadata)
    return b"".join([head, *(np.ascontiguousarray(arrays[name], _FLOAT).data for name in sorted(arrays))])
