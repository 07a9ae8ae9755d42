"""Durable files: temp beside the target, fsync, rename, fsync of the directory.

A rename is atomic for readers and, after the directory's fsync, durable. What is not promised: a directory that another
process renames meanwhile, and file systems that ignore fsync.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR
from typing import BinaryIO, TypeAlias

from memit_vc.errors import StorageError, UsageError

Stat: TypeAlias = "list[int]"
"""[size in bytes, modification time in ns, inode]"""
_MARK = ".tmp-"
_TEMPORARY = re.compile(r"\.tmp-\d+-[0-9a-f]{12}")
"""What `temporary_path` puts behind a name. Anything else that looks similar is the user's."""
_CHUNK = 1 << 22
_SYNC = 1 << 26
"""Bytes after which a file being written is synced for the first time."""


def read_chunks(path: Path) -> Iterator[bytes]:
    """A file's bytes in pieces of 4 MiB."""
    with path.open("rb") as file:
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
        where = error.filename or path
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free some space (`memitvc gc` helps) and run the command again; nothing was changed."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "Check the permissions of this path."
        else:
            hint = "Check the disk and run the command again."
        raise StorageError(f"{where}: {reason}", hint=hint) from error


def temporary_path(target: Path) -> Path:
    """A fresh name beside `target` that tells which process writes it; `is_temporary` knows it again."""
    return target.with_name(f"{target.name}{_MARK}{os.getpid()}-{secrets.token_hex(6)}")


def is_temporary(path: Path, target: Path | None = None) -> bool:
    """Whether `temporary_path` gave this name, to `target` if one is named."""
    found = _TEMPORARY.search(path.name)
    return (
        found is not None
        and found.end() == len(path.name)
        and (target is None or path.name[: found.start()] == target.name)
    )


def writer_is_alive(path: Path) -> bool:
    """Whether the process that made a temporary name still runs on this machine."""
    number = path.name.rpartition(_MARK)[2].partition("-")[0]
    if not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def stale_temporaries(root: Path, older_than: float) -> list[tuple[Path, int]]:
    """Temporary files and directories anywhere under `root` whose writer is dead, with their bytes.

    Only those that no one touched for `older_than` seconds: on a shared disk the writer may live on another machine.
    """
    found = []
    for directory, below, names in os.walk(root):
        for path in [Path(directory, name) for name in (*below, *names)]:
            if is_temporary(path) and not writer_is_alive(path):
                inside = [path, *path.rglob("*")] if path.is_dir() else [path]
                stats = [each.lstat() for each in inside]
                if time.time() - max(each.st_mtime for each in stats) >= older_than:
                    found.append((path, sum(each.st_size for each in stats if not S_ISDIR(each.st_mode))))
        below[:] = [name for name in below if not is_temporary(Path(name))]
    return sorted(found)


def remove_temporary(path: Path) -> None:
    """Delete a temporary file or directory, if it is still there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def clear_abandoned(target: Path) -> None:
    """Remove the temporary siblings of `target` whose writers are dead."""
    for path in list(target.parent.iterdir()) if target.parent.is_dir() else ():
        if is_temporary(path, target) and not writer_is_alive(path):
            with suppress(OSError):
                remove_temporary(path)


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


def make_directories(directory: Path) -> None:
    """`mkdir -p`, with every new entry made durable in its parent."""
    if directory.is_dir():
        return
    make_directories(directory.parent)
    directory.mkdir(exist_ok=True)
    fsync_path(directory.parent)


@contextmanager
def replacing(path: Path, *, sync_name: bool = True) -> Iterator[Path]:
    """A name for the block to write a file under; at its end that file is durable, and is `path`.

    An error leaves `path` as it was and no temporary file behind; that of a system which refuses is a StorageError.
    Without `sync_name` only the bytes are durable, until the caller syncs the directory: once for many files.
    """
    temporary = temporary_path(path)
    try:
        with storage_errors(path):
            make_directories(path.parent)
            yield temporary
            fsync_path(temporary)
            temporary.rename(path)
            if sync_name:
                fsync_path(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_atomic(
    path: Path, data: bytes | Iterable[bytes | memoryview], *, mode: int = 0o644, sync_name: bool = True
) -> None:
    """Write `path` whole or not at all; an existing file is replaced. StorageError leaves no temporary file behind.

    Of a large iterable, what is written goes to the disk while the rest is being made. `sync_name` as for `replacing`.
    """
    with replacing(path, sync_name=sync_name) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                _write_through(file, data)
            os.fchmod(file.fileno(), mode)


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


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A temporary directory beside `target`, which takes that name when the block ends well.

    StorageError if the system refuses, in the block too; nothing is left then.
    """
    clear_abandoned(target)
    temporary = temporary_path(target)
    try:
        with storage_errors(target):
            make_directories(target.parent)
            temporary.mkdir()
            yield temporary
            if target.is_dir():
                target.rmdir()  # empty, as `is_free` has seen; anything that came since is not lost
            publish_directory(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def publish_directory(temporary: Path, target: Path) -> None:
    """Rename a finished directory to its final name, which must not exist. OSError."""
    for directory, _, _ in os.walk(temporary):
        fsync_path(Path(directory))
    temporary.rename(target)
    fsync_path(target.parent)
