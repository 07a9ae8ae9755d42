"""The header of a GGUF file, read with suspicion, and the same header with some tensors of another type. No tensors.

Format, little-endian: "GGUF", version, the number of tensors and of values; the values; name, shape, type and offset of
each tensor; padding; the data, in which every tensor begins at a multiple of the alignment.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from memit_vc.errors import IntegrityError, StorageError, UnsupportedModelError
from memit_vc.foreign.files import opened
from memit_vc.foreign.placeholders import check_real
from memit_vc.foreign.refused import Refused, hint_of

MAX_HEADER = 1 << 27
"""Bytes: ten times the largest vocabulary with its merges."""
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20
_MAX_DIMENSIONS = 8
_MOST = 1 << 17
"""Tensors, or values: a hundred times those of the largest models."""
# value types: what `struct` calls them; a text and a list are read by hand
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_FIRST_VALUE = 24
"""Where the values begin; before them stand the numbers of tensors and of values, in 8 bytes each."""
_HINT = "Fetch it again: the file is damaged or not GGUF."


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """`shape` has the fastest dimension first, as GGUF has it; `kind` is ggml's number of the type.

    `begin` and `end` are bytes from the start of the data, `end` with the padding after it. `place` is where type and
    offset stand in the header.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    begin: int
    end: int
    place: int


@dataclass(frozen=True)
class GGUFHeader:
    """`values` are those that are a number or a text, `tensors` in the order of the data, `head` the bytes before it
    without the padding.
    """

    path: Path
    values: Mapping[str, int | float | str]
    tensors: Mapping[str, GGUFTensor]
    alignment: int
    head: bytes

    @property
    def data_start(self) -> int:
        """Offset of the data in the file, in bytes."""
        return self.aligned(len(self.head))

    def aligned(self, position: int) -> int:
        """The next place at which a tensor may begin."""
        return -(-position // self.alignment) * self.alignment

    def with_tensors(self, kinds: Mapping[str, int], sizes: Mapping[str, int], text: tuple[str, str]) -> bytes:
        """The bytes before the data, the padding with them, if these tensors have other types and sizes in bytes, and
        with `text`, a name and its value, as first of the values.

        Every other byte is as it was, but for the number of values and the offsets of the tensors that follow.
        """
        head, position = bytearray(self.head), 0
        for name, tensor in self.tensors.items():
            struct.pack_into("<IQ", head, tensor.place, kinds.get(name, tensor.kind), position)
            position = self.aligned(position + sizes.get(name, tensor.end - tensor.begin))
        (pairs,) = struct.unpack_from("<Q", head, _FIRST_VALUE - 8)
        struct.pack_into("<Q", head, _FIRST_VALUE - 8, pairs + 1)
        key, value = (struct.pack("<Q", len(part.encode())) + part.encode() for part in text)
        head[_FIRST_VALUE:_FIRST_VALUE] = key + struct.pack("<I", _TEXT) + value
        return bytes(head).ljust(self.aligned(len(head)), b"\0")


def read_gguf_header(path: Path) -> GGUFHeader:
    """The checked header of a file.

    IntegrityError for anything but a whole GGUF file, UnsupportedModelError for one of several parts or of another
    version or byte order, StorageError if the system refuses the read.
    """
    try:
        with opened(path) as file:
            return _Reader(file, path).header()
    except Refused as error:
        raise IntegrityError(f"{path}: {error}", hint=hint_of(error, _HINT)) from error
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read: {error.strerror}", hint="Check that it exists and that you may read it."
        ) from error


class _Reader:
    """A file from its beginning on. Whatever it claims costs it as many bytes as it is long."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._path = path
        self._size = os.fstat(file.fileno()).st_size
        self._head = file.read(min(self._size, MAX_HEADER))
        self._at = 0

    def header(self) -> GGUFHeader:
        check_real(self._head[:512])
        if self._take(4) != b"GGUF":
            raise Refused("is not a GGUF file", hint="Give a file that llama.cpp loads.")
        self._check_version(self._number("I"))
        count, pairs = self._number("Q"), self._number("Q")
        if not count:
            raise Refused("has no tensors", hint="Give the whole model, not its vocabulary alone.")
        if max(count, pairs) > _MOST:
            raise Refused(f"says that it has {count} tensors and {pairs} values")
        values = {}
        for _ in range(pairs):
            name = self._text()
            value = self._value(self._number("I"))
            if value is not None:
                values[name] = value
        parts = values.get("split.count", 1)
        if not isinstance(parts, int):
            raise Refused(f"says that it is one of {str(parts)[:20]!r} parts")
        if parts > 1:
            raise UnsupportedModelError(
                f"{self._path}: is one of {parts} parts",
                hint="Join them: llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf",
            )
        alignment = values.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise Refused(f"has an alignment of {alignment}")
        found = [self._tensor() for _ in range(count)]
        bare = GGUFHeader(self._path, values, {}, alignment, self._head[: self._at])
        return GGUFHeader(self._path, values, self._placed(found, bare), alignment, bare.head)

    def _check_version(self, version: int) -> None:
        if version not in _VERSIONS:
            swapped = version & 0xFFFF == 0
            what = "of the other byte order" if swapped else f"of version {version}, and 2 and 3 are read"
            raise UnsupportedModelError(f"{self._path}: is a GGUF file {what}", hint="Convert the base again.")

    def _placed(
        self, found: list[tuple[str, tuple[int, ...], int, int, int]], header: GGUFHeader
    ) -> Mapping[str, GGUFTensor]:
        """The tensors in the order of the data; each ends where the next one begins."""
        ordered = sorted(found, key=lambda each: each[3])
        data = self._size - header.data_start
        ends = [begin for _, _, _, begin, _ in ordered[1:]] + [data]
        tensors: dict[str, GGUFTensor] = {}
        for (name, shape, kind, begin, place), end in zip(ordered, ends, strict=True):
            if name in tensors:
                raise Refused(f"has two tensors {name!r}")
            if begin % header.alignment or not begin < end <= data:
                raise Refused(f"tensor {name!r} stands at byte {begin} of the data, which has {max(data, 0)}")
            tensors[name] = GGUFTensor(name, shape, kind, begin, end, place)
        if ordered and ordered[0][3]:
            raise Refused(f"its data begin with {ordered[0][3]} bytes that belong to no tensor")
        return tensors

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int, int]:
        """Name, shape, type, offset, and where the type stands."""
        name, dimensions = self._text(), self._number("I")
        if dimensions > _MAX_DIMENSIONS:
            raise Refused(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))
        place = self._at
        return name, shape, self._number("I"), self._number("Q"), place

    def _value(self, kind: int) -> int | float | str | None:
        """A number or a text; None for a list, which is passed over."""
        if kind == _TEXT:
            return self._text()
        if kind != _LIST:
            return self._number(self._format(kind))
        inner, length = self._number("I"), self._number("Q")
        if inner == _TEXT:
            for _ in range(length):
                self._take(self._number("Q"))
        elif inner == _LIST:
            raise Refused("has a list of lists")
        else:
            self._take(length * struct.calcsize(f"<{self._format(inner)}"))
        return None

    def _format(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise Refused(f"has a value of the unknown type {kind}")
        return _SCALARS[kind]

    def _number(self, kind: str) -> int:
        (number,) = struct.unpack(f"<{kind}", self._take(struct.calcsize(f"<{kind}")))
        return number  # type: ignore[no-any-return]

    def _text(self) -> str:
        return self._take(self._number("Q")).decode(errors="replace")

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._head):
            cut = self._size <= MAX_HEADER
            raise Refused("is cut short" if cut else f"its header has more than the {MAX_HEADER:,} bytes that are read")
        taken = self._head[self._at : end]
        self._at = end
        return taken
