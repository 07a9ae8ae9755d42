"""Blobs named by the SHA-256 of their bytes: written once, never changed, checkable with `sha256sum`."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from memit_vc.errors import IntegrityError
from memit_vc.objects import BlobId, is_sha256, short
from memit_vc.store.files import file_digest, read_chunks, storage_errors, write_atomic
from memit_vc.store.writing import UNFINISHED, writing


def blob_id(data: bytes) -> BlobId:
    """The name that these bytes have as a blob."""
    return BlobId(hashlib.sha256(data).hexdigest())


class BlobStore:
    """The directory `objects/`: blob `abcdef…` is the file `ab/cdef…`, mode 0444."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held = contextlib.ExitStack()
        self._writing = False

    def close(self) -> None:
        """Whoever put blobs has named them in rows by now, or never will."""
        self._held.close()
        self._writing = False

    def _location(self, blob: BlobId | str) -> Path:
        if not is_sha256(blob):
            raise IntegrityError(f"{blob!r} is not the name of an object", hint="Give a name of 64 hexadecimal digits.")
        return self.root / blob[:2] / blob[2:]

    def put(self, data: bytes | Path) -> BlobId:
        """Store bytes, or a file's bytes, durably; the id. Storing again what is there is cheap and safe.

        An existing blob gets a fresh modification time: it tells `gc` that someone is about to refer to it. One that
        was damaged is written again.
        """
        if not self._writing:
            self._held.enter_context(writing(self.root.parent / UNFINISHED))
            self._writing = True
        if isinstance(data, Path):
            with storage_errors(data):
                blob = BlobId(file_digest(data))
        else:
            blob = blob_id(data)
        target = self._location(blob)
        with storage_errors(target):
            size = data.stat().st_size if isinstance(data, Path) else len(data)
            if target.is_file() and target.stat().st_size == size and self.verify(blob):
                with contextlib.suppress(PermissionError):  # another user's blob, which is as good
                    os.utime(target)
            else:
                write_atomic(target, data if isinstance(data, bytes) else _checked(data, blob), mode=0o444)
        return blob

    def has(self, blob: BlobId | str) -> bool:
        location = self._location(blob)
        with storage_errors(location):
            return location.is_file()

    def path(self, blob: BlobId | str) -> Path:
        """The file of a blob; IntegrityError if it is absent. Its bytes are not checked here, see `verify`."""
        location = self._location(blob)
        if not self.has(blob):
            raise IntegrityError(
                f"object {short(blob)} is missing: {location}",
                hint="Fetch it from a remote with `memitvc pull`; `memitvc fsck` lists what else is missing.",
            )
        return location

    def read(self, blob: BlobId | str) -> bytes:
        """A blob's bytes, checked against its name: IntegrityError if they differ or the blob is absent."""
        location = self.path(blob)
        with storage_errors(location):
            data = location.read_bytes()
        if blob_id(data) != blob:
            raise IntegrityError(
                f"object {short(blob)} is corrupt: {location}",
                hint="Restore the file from a remote or a backup; `memitvc fsck` lists the damage.",
            )
        return data

    def size(self, blob: BlobId | str) -> int:
        """Bytes; IntegrityError if the blob is absent."""
        return self.path(blob).stat().st_size

    def verify(self, blob: BlobId | str) -> bool:
        """Whether the blob is there and its bytes hash to its name."""
        location = self._location(blob)
        with storage_errors(location):
            return location.is_file() and file_digest(location) == blob

    def iterate(self) -> Iterator[BlobId]:
        """Every stored blob, sorted; temporary and foreign files are passed over."""
        with storage_errors(self.root):
            directories = sorted(self.root.iterdir()) if self.root.is_dir() else []
        for directory in directories:
            if len(directory.name) == 2 and directory.is_dir():
                with storage_errors(directory):
                    names = sorted(directory.name + file.name for file in directory.iterdir())
                yield from (BlobId(name) for name in names if is_sha256(name))

    def put_at(self, blob: BlobId | str) -> float:
        """When the blob was last put, by the clock of then."""
        return self.path(blob).stat().st_mtime

    def remove(self, blob: BlobId | str) -> int:
        """Delete a blob; the bytes freed. For `gc` alone: it knows that no row refers to it."""
        location = self._location(blob)
        with storage_errors(location):
            size = location.stat().st_size
            location.unlink()
        return size


def _checked(source: Path, blob: BlobId) -> Iterator[bytes]:
    """A file's bytes; IntegrityError at the end if they are no longer those of `blob`."""
    sha = hashlib.sha256()
    for chunk in read_chunks(source):
        sha.update(chunk)
        yield chunk
    if sha.hexdigest() != blob:
        raise IntegrityError(f"{source} changed while it was being stored", hint="Run the command again.")
