"""Blobs: named by their bytes, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memit_vc.errors import IntegrityError, StorageError, UsageError
from memit_vc.store.blobs import BlobStore, blob_id
from memit_vc.store.files import check_new_file, write_atomic
from memit_vc.store.temporaries import is_temporary


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "objects")


def _everything(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@given(data=st.binary(max_size=200))
def test_what_was_put_is_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"))
    blob = store.put(data)
    assert blob == blob_id(data) == hashlib.sha256(data).hexdigest()
    assert store.read(blob) == data
    assert store.has(blob)
    assert store.verify(blob)
    assert list(store.iterate()) == [blob]
    assert store.put(data) == blob


def test_a_file_is_stored_like_its_bytes(store: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "big"
    source.write_bytes(os.urandom(9 << 20))
    blob = store.put(source)
    assert blob == store.put(source.read_bytes())
    assert store.size(blob) == 9 << 20
    assert stat.S_IMODE(store.path(blob).stat().st_mode) == 0o444


def test_an_absent_blob_is_named(store: BlobStore) -> None:
    with pytest.raises(IntegrityError, match="0123456789"):
        store.path("0123456789" + "a" * 54)
    assert not store.has("a" * 64)
    assert not store.verify("a" * 64)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 65, "a/" * 32])
def test_names_that_are_no_hash_are_refused(store: BlobStore, name: str) -> None:
    with pytest.raises(IntegrityError, match="not the name"):
        store.path(name)


def test_corrupt_bytes_are_noticed(store: BlobStore) -> None:
    blob = store.put(b"honest")
    store.path(blob).chmod(0o644)
    store.path(blob).write_bytes(b"changed")
    assert not store.verify(blob)
    with pytest.raises(IntegrityError, match="corrupt"):
        store.read(blob)


def test_putting_again_makes_an_orphan_young(store: BlobStore) -> None:
    blob = store.put(b"x")
    os.utime(store.path(blob), (1, 1))
    assert store.put_at(blob) == 1
    store.put(b"x")
    assert store.put_at(blob) > time.time() - 100


@pytest.mark.parametrize("step", ["fsync", "rename", "open"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_refusing_system_leaves_no_trace(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    store.put(b"first")
    before = _everything(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(StorageError) as caught:
        store.put(b"second")
    assert os.strerror(code) in caught.value.message
    assert caught.value.hint
    monkeypatch.undo()
    # a rename that went through before the directory's fsync failed leaves the whole blob, never a part
    assert all(not is_temporary(path) for path in _everything(store.root))
    assert all(store.verify(blob) for blob in store.iterate())
    assert set(before) <= set(_everything(tmp_path))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_without_fsync_is_let_pass(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    assert store.read(store.put(b"bytes")) == b"bytes"
    write_atomic(tmp_path / "a", iter([b"n", b"ew"]))
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_full_disk_says_so(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        store.put(b"x")
    assert str(store.root) in caught.value.message
    assert "Free some space" in str(caught.value.hint)


def test_a_file_that_changes_under_the_reader_is_refused(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memit_vc.store import blobs

    source = tmp_path / "live"
    source.write_bytes(b"one")
    honest = blobs.file_digest

    def digest_then_change(path: Path) -> str:
        found = honest(path)
        source.write_bytes(b"two")
        return found

    monkeypatch.setattr(blobs, "file_digest", digest_then_change)
    with pytest.raises(IntegrityError, match="changed while"):
        store.put(source)
    assert list(store.iterate()) == []


def test_write_atomic_replaces_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a" / "b"
    write_atomic(target, b"old")
    write_atomic(target, iter([b"n", b"ew"]))
    assert target.read_bytes() == b"new"

    def broken() -> object:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(target, broken())  # type: ignore[arg-type]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("hardlinks", [True, False])
def test_write_atomic_replaces_nothing_if_it_must_not(
    hardlinks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not hardlinks:
        monkeypatch.setattr(os, "link", refuse)
    target, link = tmp_path / "a", tmp_path / "link"
    link.symlink_to("missing")

    def meanwhile() -> Iterator[bytes]:
        yield b"new"
        target.write_bytes(b"mine")

    check_new_file(target)
    with pytest.raises(UsageError, match="exists already"):
        write_atomic(target, meanwhile(), replace=False)
    with pytest.raises(UsageError, match="exists already"):
        write_atomic(link, b"new", replace=False)
    assert (target.read_bytes(), link.is_symlink()) == (b"mine", True)
    write_atomic(tmp_path / "b", iter([b"n", b"ew"]), replace=False)
    assert ((tmp_path / "b").read_bytes(), (tmp_path / "b").stat().st_nlink) == (b"new", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "link"]
    for path in (target, link):
        with pytest.raises(UsageError, match="exists already"):
            check_new_file(path)


@pytest.mark.parametrize("damage", [b"", b"other bytes", b"The BYTES"])
def test_a_damaged_blob_is_repaired_by_putting_it_again(store: BlobStore, tmp_path: Path, damage: bytes) -> None:
    data = b"the bytes"
    blob = store.put(data)
    path = store.path(blob)
    for source in (data, tmp_path / "file"):
        if isinstance(source, Path):
            source.write_bytes(data)
        path.chmod(0o644)
        path.write_bytes(damage)
        assert not store.verify(blob)
        assert store.put(source) == blob
        assert store.read(blob) == data
        assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_a_blob_of_another_user_is_as_good(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = store.put(b"x")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert store.put(b"x") == blob
