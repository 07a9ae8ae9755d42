"""Who is storing objects now: `gc` must not take what a running command is about to name, whatever the clock says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from memit_vc.store.temporaries import is_held, is_temporary, open_temporary

UNFINISHED = "unfinished"
_WRITER = "writer"


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """In the block, `directory` says since when this process stores objects. Where nothing can be written, or without
    locks, only the age of objects protects them.
    """
    opened = None
    with suppress(OSError):
        directory.mkdir(exist_ok=True)
        opened = open_temporary(directory / _WRITER, 0o666)
    try:
        yield
    finally:
        if opened is not None:
            with suppress(OSError):
                opened[0].unlink()
            os.close(opened[1])


def writing_since(directory: Path) -> float:
    """When the oldest of the writers that still live began, by the clock that dates its objects; infinite if nobody
    writes.
    """
    oldest = float("inf")
    with suppress(OSError):
        for path in directory.iterdir():
            if is_temporary(path, directory / _WRITER) and is_held(path):
                with suppress(FileNotFoundError):
                    oldest = min(oldest, path.stat().st_mtime)
    return oldest
