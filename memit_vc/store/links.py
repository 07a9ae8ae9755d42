"""The same bytes under a second name, as cheaply as the file system allows."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path
from typing import Literal, TypeAlias

from memit_vc.store.files import fsync, read_chunks, storage_errors

LinkKind: TypeAlias = Literal["hardlink", "reflink", "symlink", "copy"]

_FICLONE = 0x40049409
"""Linux's ioctl that shares the blocks of two files (Btrfs, XFS, bcachefs)."""
_HUB_FOLDER = re.compile(r"(models|datasets|spaces)--")
_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


def link(src: Path, dst: Path, *, symlink: bool = False) -> LinkKind:
    """Give `src`'s bytes the new name `dst`: hard link, else reflink, else symlink where allowed, else a copy.

    A `src` that is a symlink (a snapshot of the Hub's cache) is followed first. `symlink` allows a link to the real
    file, for sources that outlive the new name. An existing `dst` is never touched: StorageError, as for any refusal
    of the system; nothing is left under `dst` then.
    """
    with storage_errors(dst):
        real = src.resolve(strict=True)
        if _hardlink(real, dst):
            return "hardlink"
        if os.path.lexists(dst):
            raise FileExistsError(errno.EEXIST, "exists already", str(dst))
        if _reflink(real, dst):
            return "reflink"
        if symlink:
            try:
                dst.symlink_to(real)
            except OSError as error:
                if error.errno not in _CANNOT_LINK:
                    raise
            else:
                return "symlink"
        _copy(real, dst)
        return "copy"


def in_hub_cache(path: Path) -> bool:
    """Whether a file is a snapshot's symlink into the `blobs` directory of a Hugging Face cache.

    There a file is named by its content: nobody can link to one whose bytes they do not know.
    """
    blobs = path.resolve().parent
    return path.is_symlink() and blobs.name == "blobs" and _HUB_FOLDER.match(blobs.parent.name) is not None


def leads_out(path: Path, directory: Path) -> bool:
    """Whether `path`, below `directory`, is or passes a symlink to what lies elsewhere and not in a Hub's cache."""
    real = path.resolve()
    return not real.is_relative_to(directory.resolve()) and not in_hub_cache(path)


def _hardlink(src: Path, dst: Path) -> bool:
    try:
        os.link(src, dst)
    except OSError as error:
        if error.errno in _CANNOT_LINK:
            return False
        raise
    return True


def _reflink(src: Path, dst: Path) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        with src.open("rb") as source, dst.open("xb") as target:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except FileExistsError:
        raise
    except OSError:
        dst.unlink(missing_ok=True)
        return False
    return True


def _copy(src: Path, dst: Path) -> None:
    target = dst.open("xb")
    try:
        with target:
            for chunk in read_chunks(src):
                target.write(chunk)
            target.flush()
            fsync(target.fileno())
    except BaseException:
        dst.unlink(missing_ok=True)
        raise
