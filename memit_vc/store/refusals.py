"""What a system that refuses means: no space, no inodes, a disk or a path that cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_ROOM = 1 << 16
"""Bytes without which SQLite cannot begin to write."""


def explained(path: Path, number: int | None, reason: str) -> tuple[str, str]:
    """(what is wrong, what to do about it) of an error of the system, by its number and its own words."""
    if number == errno.ENOSPC and _no_inodes(path):
        return (
            "No room for another file: the file system has no inodes left",
            "Delete some files there (`memitvc gc` helps) and run the command again; nothing was changed.",
        )
    if number in (errno.ENOSPC, errno.EDQUOT):
        return reason, "Free some space (`memitvc gc` helps) and run the command again; nothing was changed."
    if number == errno.EROFS:
        return reason, "Nothing can be written there. Run the command on a copy, on a disk that can be written."
    if number in (errno.EACCES, errno.EPERM):
        return reason, "Check the permissions of this path."
    return reason, "Check the disk and run the command again."


def obstacle(path: Path) -> int | None:
    """The error that writing to the file `path` and beside it would meet now; None if nothing is seen of one.

    For a library that says no more than that it failed.
    """
    try:
        there = os.statvfs(path.parent)
        if there.f_flag & os.ST_RDONLY:
            return errno.EROFS
        if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            return errno.EACCES
    except OSError as error:
        return error.errno
    return errno.ENOSPC if there.f_bavail * there.f_frsize < _ROOM or _no_inodes(path) else None


def _no_inodes(path: Path) -> bool:
    for place in (path, *path.parents):
        try:
            there = os.statvfs(place)
        except OSError:
            continue
        return there.f_files > 0 and there.f_favail == 0 and there.f_bavail > 0
    return False
