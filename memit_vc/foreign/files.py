"""Files of others, opened without waiting and read up to a limit."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO, BinaryIO, cast

from memit_vc.foreign.refused import Refused

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
}


def opened(path: Path) -> BinaryIO:
    """A regular file, open for reading. OSError as the system raises it, and for a pipe, a device or a socket.

    Opening a pipe would wait for a writer, and a device may have no end.
    """
    # without O_NONBLOCK the open itself would wait
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        check_regular(descriptor, path)
        return cast(BinaryIO, os.fdopen(descriptor, "rb"))
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(descriptor: int, path: Path) -> None:
    """OSError unless an open file is a regular one."""
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"is {_KINDS.get(kind, 'of another kind')}, not a file", str(path))


def read_file(path: Path, *, most: int) -> bytes:
    """A regular file's bytes. Refused if there are more than `most`; OSError as for `opened`."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise too_large(size, most)
        return read_stream(file, most=most)


def read_stream(stream: IO[bytes], *, most: int) -> bytes:
    """What is left of a stream; Refused, before the rest is read, if that is more than `most` bytes."""
    parts: list[bytes] = []
    left = most
    while part := stream.read(min(left + 1, 1 << 20)):
        left -= len(part)
        if left < 0:
            raise too_large(None, most)
        parts.append(part)
    return b"".join(parts)


def too_large(size: int | None, most: int) -> Refused:
    """The refusal of a file that has more bytes than can be right."""
    found = "has more" if size is None else f"has {size:,} bytes, more"
    return Refused(f"{found} than the {most:,} that are read")
