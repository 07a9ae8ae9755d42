"""One flipped bit in a file, as a disk does it: size, date and inode stay."""

from __future__ import annotations

import os
from pathlib import Path


def flip(path: Path, *, share: float = 0.75, bit: int = 1) -> None:
    """Flip bit `bit` of the byte that lies at this share of the file."""
    before, mode = path.stat(), path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as file:
        at = min(before.st_size - 1, int(before.st_size * share))
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))
    path.chmod(mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
