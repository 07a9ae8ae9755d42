"""Hard link, reflink, symlink, copy: what works first; nothing is ever overwritten."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from memit_vc.errors import StorageError
from memit_vc.store import links
from memit_vc.store.links import in_hub_cache, link


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"weights" * 1000)
    return path


def _refuse(*_: object) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_a_hard_link_where_it_works(source: Path, tmp_path: Path) -> None:
    assert link(source, tmp_path / "b", symlink=True) == "hardlink"
    assert (tmp_path / "b").samefile(source)


def test_symlinks_into_a_cache_are_followed(source: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "models--ada--base" / "blobs"
    blobs.mkdir(parents=True)
    blob = source.rename(blobs / "abc")
    (tmp_path / "snapshot").symlink_to(blob)
    assert in_hub_cache(tmp_path / "snapshot")
    assert not in_hub_cache(blob)
    assert link(tmp_path / "snapshot", tmp_path / "b") == "hardlink"
    assert not (tmp_path / "b").is_symlink()


def test_the_order_of_what_is_tried(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _refuse)
    monkeypatch.setattr(links, "_reflink", lambda *_: False)
    assert link(source, tmp_path / "b", symlink=True) == "symlink"
    assert (tmp_path / "b").resolve() == source.resolve()
    assert link(source, tmp_path / "c") == "copy"
    assert (tmp_path / "c").read_bytes() == source.read_bytes()
    assert not (tmp_path / "c").samefile(source)


@pytest.mark.parametrize("hardlinks", [True, False])
def test_an_existing_name_is_left_alone(
    source: Path, tmp_path: Path, hardlinks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b").write_text("mine")
    if not hardlinks:
        monkeypatch.setattr(os, "link", _refuse)
    for symlink in (True, False):
        with pytest.raises(StorageError):
            link(source, tmp_path / "b", symlink=symlink)
    assert (tmp_path / "b").read_text() == "mine"


def test_a_reflink_that_the_file_system_refuses_leaves_nothing(source: Path, tmp_path: Path) -> None:
    made = links._reflink(source, tmp_path / "b")
    assert (tmp_path / "b").exists() == made


def test_no_space_left_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", _refuse)
    monkeypatch.setattr(links, "_reflink", lambda *_: False)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        link(source, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_absent_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        link(tmp_path / "absent", tmp_path / "b")
