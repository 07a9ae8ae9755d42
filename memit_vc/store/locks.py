"""Lock files: one process at a time, for as long as it lives, and nobody waits without an end."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
        until = time.monotonic() + wait
        while not _taken(descriptor):
            if time.monotonic() >= until:
                raise LockedError(busy, hint=hint)
            time.sleep(_PAUSE)
        yield
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


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
