"""A base's other files may be of any size: they are copied and hashed in pieces."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.setup import init
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from memit_vc.store import files

SIZE = 3 * files._CHUNK + 5


def test_a_file_larger_than_memory_goes_through_a_checkout(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    with (base / "notes.txt").open("wb") as file:
        file.truncate(SIZE)
    read = Path.read_bytes

    def small(path: Path) -> Any:
        assert path.stat().st_size < SIZE, f"{path} is read whole"
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", small)
    init(str(base), directory=tmp_path / "work")
    with Repository.open(tmp_path / "work") as repository:
        out = checkout(repository, "HEAD", tmp_path / "out").directory
        assert fsck(repository) == ([], 0)
    assert (out / "notes.txt").stat().st_size == SIZE
