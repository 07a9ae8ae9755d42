"""Locks on files and directories, each held for as long as its process lives; nobody waits without an end."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from memit_vc.errors import LockedError
from memit_vc.foreign.files import check_regular
from memit_vc.store.files import make_directories, storage_errors

_PAUSE = 0.1


@contextmanager
def locked(path: Path, *, wait: float, busy: str, hint: str) -> Iterator[None]:
    """Hold the lock of a file, which is made if it is absent; the system releases it when its holder dies.

    LockedError, with `busy` and `hint`, if another process still has it after `wait` seconds. StorageError for a link,
    a pipe or a device under that name: in a directory that others can write to, it could stand for any file.
    """
    with storage_errors(path):
        descriptor = _opened(path)
    try:
        with storage_errors(path):
            check_regular(descriptor, path)
            _take(descriptor, fcntl.LOCK_EX, wait, LockedError(busy, hint=hint))
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_directory(path: Path, *, shared: bool = False, wait: float, busy: str, hint: str) -> Iterator[int]:
    """As `locked`, for a directory that is there; its descriptor. If `shared`, others who share it may hold it, too."""
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with storage_errors(path):  # some file systems have no locks
            _take(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait, LockedError(busy, hint=hint))
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def alone(root: Path, name: str, wait: float, busy: str) -> Iterator[None]:
    """Read and write a file of the repository at `root` while no other command does. LockedError as for `locked`."""
    place = root / "cache" / f"{name}.lock"
    with storage_errors(place):
        make_directories(place.parent)
    with locked(place, wait=wait, busy=busy, hint="Wait until it is done."):
        yield


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a symbolic link, not a file", str(path)) from error
        raise


def _take(descriptor: int, kind: int, wait: float, busy: LockedError) -> None:
    until = time.monotonic() + wait
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        if time.monotonic() >= until:
            raise busy
        time.sleep(_PAUSE)
