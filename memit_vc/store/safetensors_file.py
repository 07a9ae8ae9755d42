"""Safetensors headers, read with suspicion and written as the safetensors library writes them. No tensors.

Format: 8 bytes little-endian header length, the JSON header padded with spaces to a multiple of 8, the data.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memit_vc.errors import IntegrityError, StorageError
from memit_vc.foreign.data import json_value
from memit_vc.foreign.files import opened
from memit_vc.foreign.placeholders import check_real
from memit_vc.foreign.refused import Refused, hint_of

MAX_HEADER = 1 << 25
"""Bytes: a third of what the safetensors library allows, and enough for 250,000 tensors."""
MAX_DIMENSIONS = 16
"""Of one tensor: the time for the product of very many sizes grows as the square of their number."""

# in the library's order: wider types come first in a file, so that every tensor is aligned
DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
_RANK = {name: rank for rank, name in enumerate(DTYPE_BITS)}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: `begin` and `end` are bytes from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class FileHeader:
    """`tensors` in the order of the data; `data_start` is the offset of the data in the file, in bytes."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, Entry]
    data_start: int


def read_header(path: Path, *, source: str | None = None) -> FileHeader:
    """The checked header of a file; nothing that it claims is believed before the file's size has been compared.

    `source` is what messages call it (default: the path). IntegrityError for anything but a whole safetensors file,
    StorageError if the system refuses the read.
    """
    name = source or str(path)
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(512)
            check_real(start)
            length = _check_length(start[:8], size, name)
            return parse_header(start + file.read(max(0, length + 8 - len(start))), size, source=name)
    except Refused as error:
        raise IntegrityError(f"{name}: {error}", hint=hint_of(error, _HINT)) from error
    except OSError as error:
        raise StorageError(
            f"{name}: cannot be read: {error.strerror}", hint="Check that it exists and that you may read it."
        ) from error


def parse_header(head: bytes, size: int, *, source: str) -> FileHeader:
    """The same for bytes: `head` holds at least the header, `size` is the length of the whole file in bytes."""
    length = _check_length(head[:8], size, source)
    try:
        record = json_value(head[8 : 8 + length], pairs=_no_duplicates)
    except Refused as error:
        raise IntegrityError(f"{source}: the header {error}", hint=hint_of(error, _HINT)) from error
    except ValueError as error:
        raise IntegrityError(f"{source}: the header is not JSON: {error}", hint=_HINT) from error
    if not isinstance(record, dict):
        raise IntegrityError(f"{source}: the header is not a JSON object", hint=_HINT)
    metadata = record.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise IntegrityError(f"{source}: __metadata__ is not a map of strings", hint=_HINT)
    tensors = {name: _entry(name, value, source) for name, value in record.items()}
    ordered = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    position = 0
    for name, entry in ordered:
        if entry.begin != position:
            raise IntegrityError(
                f"{source}: tensor {name!r} begins at byte {entry.begin} of the data, expected {position}", hint=_HINT
            )
        position = entry.end
    if 8 + length + position != size:
        raise IntegrityError(
            f"{source}: the header describes {8 + length + position} bytes, the file has {size}", hint=_HINT
        )
    return FileHeader(metadata, dict(ordered), 8 + length)


def write_header(entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the data for tensors name -> (dtype, shape), as the safetensors library would write them.

    The data follows in `file_order`. Metadata keeps the order given; the library's order of several keys is random.
    """
    record: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name in file_order(entries):
        dtype, shape = entries[name]
        end = position + math.prod(shape) * DTYPE_BITS[dtype] // 8
        record[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def file_order(entries: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[str]:
    """Tensor names as their data follow each other in a file: widest type first, then by name."""
    return sorted(entries, key=lambda name: (-_RANK[entries[name][0]], name))


_HINT = "Fetch it again: the file is damaged or not safetensors."


def _check_length(length: bytes, size: int, source: str) -> int:
    claimed = int.from_bytes(length, "little")
    if len(length) < 8 or claimed > size - 8:
        raise IntegrityError(
            f"{source}: is cut short: it has {size} bytes, its header alone needs {claimed if len(length) == 8 else 8}",
            hint=_HINT,
        )
    if claimed > MAX_HEADER:
        raise IntegrityError(f"{source}: its header has {claimed} bytes, at most {MAX_HEADER} are read", hint=_HINT)
    return claimed


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _entry(name: str, value: Any, source: str) -> Entry:
    where = f"{source}: tensor {name!r}"
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise IntegrityError(f"{where}: not a record of dtype, shape and data_offsets", hint=_HINT)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise IntegrityError(f"{where}: unknown dtype {dtype!r}", hint="Upgrade memit-vc: a newer version may know it.")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise IntegrityError(f"{where}: shape or offsets are not natural numbers", hint=_HINT)
    if len(shape) > MAX_DIMENSIONS:
        raise IntegrityError(f"{where}: has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are read", hint=_HINT)
    begin, end = offsets
    # Python's integers do not overflow: a claim of 2^60 entries is compared, not multiplied modulo 2^64
    if (end - begin) * 8 != math.prod(shape) * DTYPE_BITS[dtype]:
        raise IntegrityError(f"{where}: {dtype} {shape} does not fill bytes {begin} to {end}", hint=_HINT)
    return Entry(dtype, tuple(shape), begin, end)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
