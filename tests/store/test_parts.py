"""Parts of a tensor: read as tensors of their own, written as the whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from memit_vc.errors import UnsupportedModelError
from memit_vc.store.checkpoint import SINGLE_FILE, Checkpoint
from memit_vc.store.parts import file_layout, in_parts, part_names, part_of
from memit_vc.store.safetensors_file import Entry, FileHeader, parse_header, read_header
from memit_vc.store.shards import build_base

TENSORS = {
    "a.experts": np.arange(12 * 2 * 3, dtype=np.float32).reshape(12, 2, 3),
    "a.experts_bias": np.ones((12, 2), np.float32),
    "b.weight": np.full((2, 2), 7, np.float16),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    (tmp_path / "base").mkdir()
    save_file(TENSORS, tmp_path / "base" / SINGLE_FILE, {"format": "pt"})
    return Checkpoint.find(tmp_path / "base")


def test_names_sort_as_the_bytes_lie() -> None:
    names = part_names("x", 12)
    assert names == sorted(names)
    assert [part_of(name) for name in names] == [("x", number) for number in range(12)]
    assert part_of("x.0.weight") == ("x.0.weight", None)
    assert part_names("x", 1) == ["x[0]"]


def test_a_part_has_the_bytes_of_its_expert(checkpoint: Checkpoint) -> None:
    names = part_names("a.experts", 12)
    found = checkpoint.in_parts(names)
    assert found.tensors.keys() == {*names, "a.experts_bias", "b.weight"}
    for number, name in enumerate(names):
        part = TENSORS["a.experts"][number]
        assert found.tensors[name][1].shape == (2, 3)
        assert b"".join(found.chunks(name)) == part.tobytes()
    record = {tensor.name: tensor.sha256 for tensor in found.manifest().tensors}
    assert record[names[3]] == hashlib.sha256(TENSORS["a.experts"][3].tobytes()).hexdigest()
    assert found.differences(found.manifest(), {}) == []


@pytest.mark.parametrize(
    "names",
    [part_names("a.experts", 12)[:-1], part_names("a.experts", 11), part_names("c", 12), ["b.weight"], []],
)
def test_only_all_parts_of_a_tensor_take_it_apart(checkpoint: Checkpoint, names: list[str]) -> None:
    assert checkpoint.in_parts(names).tensors == checkpoint.tensors


def test_the_file_that_is_written_has_the_whole_tensors(checkpoint: Checkpoint) -> None:
    found = checkpoint.in_parts(part_names("a.experts", 12))
    entries = {name: (entry.dtype, entry.shape) for name, (_, entry) in found.tensors.items()}
    head, order = file_layout(entries, {"format": "pt"})
    data = head + b"".join(chunk for name in order for chunk in found.chunks(name))
    assert data == save(TENSORS, {"format": "pt"})
    header = parse_header(data, len(data), source="it")
    assert in_parts(header, entries).tensors.keys() == entries.keys()


def test_parts_that_make_no_whole_are_not_written(checkpoint: Checkpoint) -> None:
    part = ("F32", (2, 3))
    for names in ([*part_names("x", 3)[:2], "x"], part_names("x", 12)[:3], part_names("x", 3)[1:]):
        with pytest.raises(ValueError, match="do not make a whole"):
            file_layout(dict.fromkeys(names, part), {})


def test_a_shape_is_not_believed_before_the_names() -> None:
    header = FileHeader({}, {"x": Entry("F32", (10**12, 0), 0, 0)}, 8)
    assert in_parts(header, part_names("x", 2)) == header


def test_the_base_is_split_by_whole_tensors(checkpoint: Checkpoint, tmp_path: Path) -> None:
    names = part_names("a.experts", 12)
    found = checkpoint.in_parts(names)
    base = build_base(found, names, tmp_path / "split", manifest=found.manifest())
    assert base.hot.keys() == set(names)
    hot = load_file(base.directory / "model-hot.safetensors")
    assert hot.keys() == {"a.experts"}
    assert np.array_equal(hot["a.experts"], TENSORS["a.experts"])
    (cold,) = base.cold
    assert read_header(base.directory / cold).tensors.keys() == {"a.experts_bias", "b.weight"}
    assert base.damaged(base.paths(), found.manifest(), found.file_hashes()) == []


def test_a_tensor_with_the_name_of_a_part_is_refused(tmp_path: Path) -> None:
    save_file({"x[0]": np.zeros((1, 1), np.float32)}, tmp_path / SINGLE_FILE)
    with pytest.raises(UnsupportedModelError, match=r"has a tensor 'x\[0\]'"):
        Checkpoint.find(tmp_path)
