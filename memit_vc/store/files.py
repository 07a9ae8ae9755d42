"""Durable files: temp beside the target, fsync, rename, fsync of the directory.

A rename is atomic for readers and, after the directory's fsync, durable. What is not promised: a directory that another
process renames meanwhile, and file systems that ignore fsync.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from typing import BinaryIO, TypeAlias

from memit_vc.errors import StorageError, UsageError
from memit_vc.foreign.files import opened
from memit_vc.store.refusals import explained
from memit_vc.store.temporaries import clear_abandoned, open_temporary, target_of, temporary_directory

Stat: TypeAlias = "list[int]"
"""[size in bytes, modification time in ns, inode]"""
_CHUNK = 1 << 22
_SYNC = 1 << 26
"""Bytes after which a file being written is synced for the first time."""


def read_chunks(path: Path) -> Iterator[bytes]:
    """A regular file's bytes in pieces of 4 MiB. OSError as for `opened`."""
    with opened(path) as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes in bounded memory, 64 hex digits; OSError as the system raises it."""
    sha = hashlib.sha256()
    for chunk in read_chunks(path):
        sha.update(chunk)
    return sha.hexdigest()


def file_stat(path: Path) -> Stat:
    """The stat of the file behind any symlink; OSError as the system raises it."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError that names `path` (or the file the system named)."""
    try:
        yield
    except OSError as error:
        where = target_of(Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path)
        reason, hint = explained(path, error.errno, error.strerror or str(error))
        raise StorageError(f"{where}: {reason}", hint=hint) from error


def fsync(descriptor: int) -> None:
    """Make an open file or directory durable. File systems that cannot (EINVAL, ENOTSUP) are let pass; EIO is not."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def fsync_path(path: Path) -> None:
    """Make a file, or a directory's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(directory: Path, *, besides: int = 0) -> None:
    """`mkdir -p`, with every new entry made durable in its parent. `besides` as for `write_atomic`."""
    if directory.is_dir():
        return
    make_directories(directory.parent, besides=besides)
    directory.mkdir(exist_ok=True)
    if besides:
        directory.chmod(S_IMODE(directory.stat().st_mode) | besides)
    fsync_path(directory.parent)


@contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """A temporary directory beside `target`, which may not have a parent yet; StorageError if it cannot be made."""
    with ExitStack() as held:
        with storage_errors(target):
            make_directories(target.parent)
            place = held.enter_context(temporary_directory(target))
        yield place


@contextmanager
def replacing(path: Path, *, sync_name: bool = True) -> Iterator[Path]:
    """A name for the block to write a file under; at its end that file is durable, and is `path`.

    It has the mode of any new file, also where a library writes it with one of its own. An error leaves `path` as it
    was and no temporary file behind; that of a system which refuses is a StorageError. Without `sync_name` only the
    bytes are durable, until the caller syncs the directory: once for many files.
    """
    with storage_errors(path), scratch(path) as place:
        made = place / path.name
        made.touch()
        mode = S_IMODE(made.stat().st_mode)
        yield made
        made.chmod(mode)
        fsync_path(made)
        made.rename(path)
        if sync_name:
            fsync_path(path.parent)


def write_atomic(
    path: Path,
    data: bytes | Iterable[bytes | memoryview],
    *,
    mode: int = 0o666,
    besides: int = 0,
    sync_name: bool = True,
    replace: bool = True,
) -> None:
    """Write `path` whole or not at all; an existing file is replaced. StorageError leaves no temporary file behind.

    The umask applies to `mode`; the bits in `besides` are set whatever it says. Of a large iterable, what is written
    goes to the disk while the rest is being made. `sync_name` as for `replacing`. Without `replace`, UsageError if
    something is at `path` when the bytes are ready; it stays.
    """
    with storage_errors(path):
        make_directories(path.parent)
        temporary, descriptor = open_temporary(path, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if besides:
                    os.fchmod(descriptor, S_IMODE(os.fstat(descriptor).st_mode) | besides)
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    _write_through(file, data)
                file.flush()
                fsync(descriptor)
                if replace:
                    temporary.rename(path)
                else:
                    _place_new(temporary, path)
            if sync_name:
                fsync_path(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def _place_new(made: Path, path: Path) -> None:
    """Rename a finished file to a name that must be free; a broken link takes it, too. UsageError, OSError."""
    try:
        os.link(made, path)  # unlike a rename, it never replaces
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError:  # a file system without hard links: only between look and rename can something be lost
        if os.path.lexists(path):
            raise _taken(path) from None
        made.rename(path)
    else:
        made.unlink()


def _taken(path: Path) -> UsageError:
    return UsageError(f"{path}: exists already", hint="Name another file, or move it away: nothing is overwritten.")


def _write_through(file: BinaryIO, data: Iterable[bytes | memoryview]) -> None:
    """Write the chunks, and now and then start an fsync of those written so far."""
    with ThreadPoolExecutor(max_workers=1) as disk:
        syncing: Future[None] | None = None
        unsynced = 0
        for chunk in data:
            file.write(chunk)
            unsynced += len(chunk)
            if unsynced >= _SYNC and (syncing is None or syncing.done()):
                if syncing is not None:
                    syncing.result()  # a failure is reported once, to one fsync: do not lose it
                file.flush()
                syncing, unsynced = disk.submit(fsync, file.fileno()), 0
        if syncing is not None:
            syncing.result()


def is_free(target: Path) -> bool:
    """Whether a directory can be made at `target`: nothing is there, or an empty directory; False for a full one.

    UsageError for a file, and for a symbolic link that leads nowhere.
    """
    with storage_errors(target):
        if target.is_symlink() and not target.exists():
            raise UsageError(
                f"{target}: is a broken symbolic link to {target.readlink()}",
                hint="Remove it, or choose another name.",
            )
        if not target.exists():
            return True
        if not target.is_dir():
            raise UsageError(f"{target}: is a file", hint="Choose another name for the directory.")
        return not any(target.iterdir())


def check_new_file(path: Path) -> None:
    """Before a long computation: UsageError if something is at `path`, StorageError if no file can be made there.

    What killed writers of `path` left beside it goes: no gc comes there. `write_atomic` looks again in the end.
    """
    with storage_errors(path):
        if path.exists() or path.is_symlink():
            raise _taken(path)
        clear_abandoned(path)
        there = next(each for each in path.absolute().parents if each.exists())
        temporary, descriptor = open_temporary(there / path.name, 0o600)
        os.close(descriptor)
        temporary.unlink()


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to fill, which becomes `target` when the block ends well.

    StorageError if the system refuses, in the block too; nothing is left then. UsageError for the working directory. A
    symbolic link stays, and the directory is made where it leads.
    """
    with storage_errors(target):
        if target.exists() and target.samefile(Path()):
            raise UsageError(
                f"{target}: is the working directory, which cannot be replaced",
                hint="Name a new directory, for example model; or run the command from another directory.",
            )
    target = target.resolve() if target.is_symlink() else target
    clear_abandoned(target)
    with storage_errors(target), scratch(target) as place:
        made = place / target.name
        made.mkdir()
        yield made
        try:
            if target.is_dir():
                with suppress(FileNotFoundError):
                    target.rmdir()  # empty, as `is_free` has seen; anything that came since is not lost
            publish_directory(made, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise UsageError(
                f"{target}: another command has written there meanwhile",
                hint="Choose another directory; nothing is overwritten.",
            ) from error


def publish_directory(made: Path, target: Path) -> None:
    """Rename a finished directory to its final name, which must not exist. OSError."""
    for directory, _, _ in os.walk(made):
        fsync_path(Path(directory))
    made.rename(target)
    fsync_path(target.parent)
