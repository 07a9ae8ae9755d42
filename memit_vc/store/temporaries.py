"""Temporary files and directories, held by locks.

`x.tmp-<12 digits>` is a file that becomes `x`, or a directory in which `x` is made. Its writer holds a lock (flock): on
the file itself, or on the file `lock` in the directory. The system lets go of it when the writer dies, on whatever
machine and in whatever container that was. So what nobody holds is rubbish, and what somebody holds is not. Where a
file system has no such locks, nothing is ever taken for rubbish.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR

_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{12}")
"""Behind the name of the target. Anything else that looks similar is the user's."""
_LONGEST = 255 - len(".tmp-") - 12
"""Bytes."""
_LOCK = "lock"


def is_temporary(path: Path, target: Path | None = None) -> bool:
    """Whether a name is one of those given here, for `target` if one is named."""
    found = _TEMPORARY.search(path.name)
    return (
        found is not None
        and found.end() == len(path.name)
        and (target is None or path.name[: found.start()] == _stem(target))
    )


def target_of(path: Path) -> Path:
    """What a temporary file, or one in a temporary directory, is made for: the name that people know, cut if it is
    nearly as long as a name may be.
    """
    for number, part in enumerate(path.parts):
        if is_temporary(Path(part)):
            return Path(*path.parts[:number], _TEMPORARY.sub("", part))
    return path


def open_temporary(target: Path, mode: int) -> tuple[Path, int]:
    """A new file beside `target`: its path, and a descriptor to write to, which holds the lock. OSError."""
    while True:
        path = _name(target)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        if _held(descriptor, path):
            return path, descriptor
        os.close(descriptor)


@contextmanager
def temporary_directory(target: Path) -> Iterator[Path]:
    """A new directory beside `target`, which goes at the end of the block with what is left in it. OSError."""
    path, descriptor = _directory(target)
    try:
        yield path
    finally:
        _remove(path)
        os.close(descriptor)


def stale_temporaries(root: Path, older_than: float) -> list[tuple[Path, int]]:
    """Temporary files and directories anywhere under `root` that nobody holds, with their bytes.

    Only those that no one touched for `older_than` seconds: some shared disks keep the locks of each machine apart.
    """
    found = []
    for directory, below, names in os.walk(root):
        for path in [Path(directory, name) for name in (*below, *names)]:
            if is_temporary(path):
                with suppress(FileNotFoundError):  # its writer has just finished
                    inside = [path, *path.rglob("*")] if path.is_dir() else [path]
                    stats = [each.lstat() for each in inside]
                    old = time.time() - max(each.st_mtime for each in stats) >= older_than
                    if old and (descriptor := _claim(path)) is not None:
                        os.close(descriptor)
                        found.append((path, sum(each.st_size for each in stats if not S_ISDIR(each.st_mode))))
        below[:] = [name for name in below if not is_temporary(Path(name))]
    return sorted(found)


def is_held(path: Path) -> bool:
    """Whether the writer of a temporary lives. False where that cannot be known, or it has just gone."""
    if (descriptor := _claim(path)) is None:
        return path.exists()
    os.close(descriptor)
    return False


def remove_temporary(path: Path) -> None:
    """Delete a temporary file or directory that nobody holds."""
    descriptor = _claim(path)
    if descriptor is not None:
        _remove(path)
        os.close(descriptor)


def clear_abandoned(target: Path) -> None:
    """Remove the temporary siblings of `target` whose writers are dead."""
    with suppress(OSError):
        for path in list(target.parent.iterdir()):
            if is_temporary(path, target):
                remove_temporary(path)


def _name(target: Path) -> Path:
    return target.with_name(f"{_stem(target)}.tmp-{secrets.token_hex(6)}")


def _stem(target: Path) -> str:
    """The target's name, or so much of it that the temporary's fits into a directory."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= _LONGEST else name[:_LONGEST].decode(errors="ignore")


def _directory(target: Path) -> tuple[Path, int]:
    while True:
        path = _name(target)
        path.mkdir()
        try:
            descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except (FileExistsError, FileNotFoundError):  # someone has just taken it for rubbish
            continue
        except BaseException:
            with suppress(OSError):
                path.rmdir()
            raise
        if _held(descriptor, path / _LOCK):
            return path, descriptor
        os.close(descriptor)


def _held(descriptor: int, path: Path) -> bool:
    """Take the lock of a file just made. False if somebody took the file for rubbish before."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _claim(path: Path) -> int | None:
    """A descriptor with the lock of a temporary; None if somebody has it, or if that cannot be known."""
    directory = path.is_dir() and not path.is_symlink()
    # reading is allowed for files of others too, and to read a shared lock is enough
    place, flags, kind = (
        (path / _LOCK, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) if directory else (path, os.O_RDONLY, fcntl.LOCK_SH)
    )
    try:
        descriptor = os.open(place, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(path: Path) -> None:
    """Delete a file, or a directory with its lock last."""
    with suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        for each in list(path.iterdir()):
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            elif each.name != _LOCK:
                each.unlink(missing_ok=True)
        (path / _LOCK).unlink(missing_ok=True)
        path.rmdir()
