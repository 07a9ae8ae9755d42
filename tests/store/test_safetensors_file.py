"""Our reading and writing of headers against the safetensors library."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from memit_vc.errors import IntegrityError, StorageError
from memit_vc.store.safetensors_file import MAX_HEADER, parse_header, read_header, write_header

DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.complex64: "C64",
}
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__")


@given(
    tensors=st.dictionaries(
        names, st.tuples(st.sampled_from(list(DTYPES)), st.lists(st.integers(0, 3), max_size=3)), max_size=8
    ),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=1),
)
def test_headers_are_byte_identical_to_the_library(
    tensors: dict[str, tuple[torch.dtype, list[int]]], metadata: dict[str, str]
) -> None:
    blob = save({name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in tensors.items()}, metadata or None)
    ours = write_header({name: (DTYPES[dtype], tuple(shape)) for name, (dtype, shape) in tensors.items()}, metadata)
    assert blob[: len(ours)] == ours
    header = parse_header(blob, len(blob), source="blob")
    assert header.data_start == len(ours)
    assert dict(header.metadata) == metadata
    assert {name: (entry.dtype, list(entry.shape)) for name, entry in header.tensors.items()} == {
        name: (DTYPES[dtype], shape) for name, (dtype, shape) in tensors.items()
    }


def file_with(header: Any, data: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def entry(begin: int, end: int, *, dtype: str = "F32", shape: Any = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "cut short"),
        (b"\1\0\0", "cut short"),
        (struct.pack("<Q", 2**60) + b"{}", "cut short"),
        (file_with(b"{"), "not JSON"),
        (file_with(b"[" * 100_000), "nested too deeply"),
        (file_with(b"\xff\xfe"), "not JSON"),
        (file_with([]), "not a JSON object"),
        (file_with(b'{"a":1,"a":2}'), "occurs twice"),
        (file_with({"__metadata__": {"a": 1}}), "map of strings"),
        (file_with({"a": 1}), "not a record"),
        (file_with({"a": {**entry(0, 4), "x": 1}}, 4), "not a record"),
        (file_with({"a": entry(0, 4, dtype="F33")}, 4), "unknown dtype 'F33'"),
        (file_with({"a": entry(0, 4, dtype=[])}, 4), "unknown dtype"),  # type: ignore[arg-type]
        (file_with({"a": entry(0, 4, shape=[-1])}, 4), "natural numbers"),
        (file_with({"a": entry(0, 4, shape=[1.0])}, 4), "natural numbers"),
        (file_with({"a": entry(0, 4, shape=[True])}, 4), "natural numbers"),
        (file_with({"a": entry(0, 4, shape=[2**60])}, 4), "does not fill"),
        (file_with({"a": entry(0, 4, shape=[2**62, 2**62])}, 4), "does not fill"),
        (file_with({"a": entry(0, 4, shape=[2**62] * 100_000)}, 4), "has 100000 dimensions, at most 16 are read"),
        (file_with({"a": entry(4, 0)}, 4), "does not fill"),
        (file_with({"a": entry(4, 8)}, 8), "begins at byte 4"),
        (file_with({"a": entry(0, 4), "b": entry(0, 4)}, 4), "begins at byte 0"),
        (file_with({"a": entry(0, 4)}, 5), "the header describes"),
        (file_with({"a": entry(0, 4)}, 3), "the header describes"),
    ],
)
def test_headers_that_lie_are_refused(blob: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    path.write_bytes(blob)
    with pytest.raises(IntegrityError, match=message) as caught:
        read_header(path)
    assert str(path) in caught.value.message


def test_a_header_above_the_formats_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER + 1))
        file.truncate(200_000_000)
    with pytest.raises(IntegrityError, match=f"at most {MAX_HEADER} are read"):
        read_header(path)


def test_an_unreadable_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        read_header(tmp_path / "absent")
    with pytest.raises(StorageError):
        read_header(tmp_path)
