"""Objects on their way in: downloaded beside the store, checked against their names, stored all together or not."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from memit_vc.concurrency import ordered_map
from memit_vc.errors import IntegrityError, MemitVCError, RemoteError, StorageError
from memit_vc.foreign.placeholders import check_real_file
from memit_vc.foreign.refused import Refused, hint_of
from memit_vc.objects import BlobId, short
from memit_vc.porcelain.sharing.remote_history import Published
from memit_vc.progress import Progress, silent
from memit_vc.remote.manifest import object_path
from memit_vc.remote.strict_json import DISTRUST
from memit_vc.store.blobs import BlobStore, blob_id
from memit_vc.store.files import file_digest, fsync, make_directories, scratch, storage_errors
from memit_vc.store.locks import locked


class Incoming:
    """The directory `cache/<name>`: whole objects of an unfinished fetch, with which the next one goes on.

    Every file in it hashes to its name; nothing refers to it. `bytes` counts what was downloaded. A context manager:
    only one process at a time has it (LockedError). At the end the directory is emptied, unless the remote or a disk
    failed, or the process was interrupted: then what is whole stays for the next try.
    """

    def __init__(self, root: Path, blobs: BlobStore, *, name: str = "incoming") -> None:
        self.directory = root / "cache" / name
        self.blobs = blobs
        self.bytes = 0
        self.downloaded: list[BlobId] = []
        self._lock = ExitStack()

    def __enter__(self) -> Incoming:

        with storage_errors(self.directory):
            make_directories(self.directory.parent)
        busy = f"another command is fetching into {self.blobs.root.parent}"
        lock = locked(self.directory.with_suffix(".lock"), wait=0, busy=busy, hint="Wait until it is done.")
        self._lock.enter_context(lock)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        refused = isinstance(error, MemitVCError | MemoryError) and not isinstance(error, RemoteError | StorageError)
        if error is None or refused:
            self.clear()
        self._lock.close()

    def fetch(self, found: Published, wanted: Mapping[BlobId, int | None], *, progress: Progress = silent) -> None:
        """Download what is neither stored nor here already. `wanted` maps each object to its largest size in bytes, or
        to None if its name comes from this repository. IntegrityError for more bytes, for bytes that do not hash to
        their name, and for an object that the remote lacks; RemoteError for sizes that cannot fit on this disk.
        """
        missing = sorted(blob for blob in wanted if not self.blobs.verify(blob) and not self._has(blob))
        for blob in missing:
            if object_path(blob) not in found.listing:
                raise IntegrityError(
                    f"{found.remote.url}: lacks object {short(blob)}, which its history needs",
                    hint=f"Ask someone who has it to copy it there: .memitvc/{object_path(blob)}. Nothing was stored.",
                )
            listed, most = found.listing[object_path(blob)].size, wanted[blob]
            if most is not None and listed > most:
                raise IntegrityError(
                    f"{found.remote.url}: object {short(blob)} has {listed:,} bytes, at most {most:,} can be right",
                    hint=DISTRUST,
                )
        size = sum(found.listing[object_path(blob)].size for blob in missing)
        with storage_errors(self.directory):
            make_directories(self.directory)
            free = shutil.disk_usage(self.directory).free
            held = sum((self.directory / blob).stat().st_size for blob in wanted if self._has(blob))
        # for a while each object is here and in the store
        if 2 * size + held > free:
            raise RemoteError(
                f"{found.remote.url}: its objects have {size:,} bytes and need twice that for a while, "
                f"{free:,} are free here",
                hint="Free some space (`memitvc gc` helps) and run the command again; nothing was stored.",
            )
        done = 0
        for got in ordered_map(lambda blob: self._download(found, blob), missing):
            done += got
            progress("fetch objects", done, size)
        self.bytes += done
        self.downloaded += missing

    def path(self, blob: BlobId) -> Path:
        """The file of an object, here or in the store."""
        return self.directory / blob if self._has(blob) else self.blobs.path(blob)

    def read(self, blob: BlobId) -> bytes:
        """An object's bytes, checked against its name once more. IntegrityError."""
        if not self._has(blob):
            return self.blobs.read(blob)
        path = self.directory / blob
        with storage_errors(path):
            data = path.read_bytes()
        if blob_id(data) != blob:
            raise self._spoilt(blob)
        return data

    def store(self, wanted: Collection[BlobId]) -> None:
        """Move objects into the store."""
        for blob in sorted(wanted):
            if self._has(blob):
                path = self.directory / blob
                with storage_errors(path):
                    whole = file_digest(path) == blob
                if not whole or self.blobs.put(path) != blob:
                    raise self._spoilt(blob)
            elif self.blobs.verify(blob):
                self.blobs.put(self.blobs.path(blob))  # fresh again for gc, until a row names it

    def _spoilt(self, blob: BlobId) -> IntegrityError:
        path = self.directory / blob
        with storage_errors(path):
            path.unlink(missing_ok=True)
        return IntegrityError(f"{path} was damaged on this disk", hint="Run the command again.")

    def clear(self) -> None:
        """Remove all that is not in the store."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def has(self, blob: BlobId) -> bool:
        """Whether an object is here or in the store."""
        return self._has(blob) or self.blobs.has(blob)

    def _has(self, blob: BlobId) -> bool:
        return (self.directory / blob).is_file()

    def _download(self, found: Published, blob: BlobId) -> int:
        listed = found.listing[object_path(blob)]
        with scratch(self.directory / blob) as place:
            temporary = place / blob
            found.remote.fetch(object_path(blob), found.revision, temporary, limit=listed.size)
            with storage_errors(temporary):
                if file_digest(temporary) != blob:
                    try:
                        check_real_file(temporary)
                    except Refused as error:
                        where = f"{found.remote.url}: object {short(blob)}"
                        raise IntegrityError(f"{where} {error}", hint=hint_of(error, DISTRUST)) from error
                    raise IntegrityError(
                        f"{found.remote.url}: object {short(blob)} is not what its name says",
                        hint="Run the command again: it may have been damaged on the way. Nothing was stored.",
                    )
                size = temporary.stat().st_size
                with temporary.open("rb") as file:
                    fsync(file.fileno())  # the next fetch takes what has its name here for whole
                temporary.replace(self.directory / blob)
        return size
