"""`gc`: remove objects that nothing reaches any more."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from memit_vc.errors import StorageError
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.store.files import storage_errors
from memit_vc.store.gc import collect
from memit_vc.store.records import GcResult

SEARCHES = 1 << 28
"""Bytes that the z of earlier searches may keep."""
GRACE = 3600.0
"""Seconds for which a new object stays even unreferenced: a commit that is still computing may need it."""


def collect_garbage(
    repository: Repository,
    *,
    keep_operations: int | None = None,
    grace: float = GRACE,
    dry_run: bool = False,
    progress: Progress = silent,
) -> GcResult:
    """Remove commits, patches and facts that no branch, tag, operation or kept patch reaches, and their objects.

    Operations keep what they name, so that `undo` can bring it back. With `keep_operations`, all but that many are
    forgotten first, and objects that only they held go too. Of the cache of z, the oldest beyond `SEARCHES` bytes go.
    Objects younger than `grace` seconds stay. `dry_run` only counts. On a full disk files go before rows, and kept
    states with them if need be.
    """
    files, size = _trim_searches(repository.root / "cache" / "z", grace=grace, dry_run=dry_run)

    def gone() -> GcResult:
        return collect(
            repository.database,
            repository.blobs,
            repository.journal,
            keep_operations=keep_operations,
            grace=grace,
            dry_run=dry_run,
            progress=progress,
        )

    try:
        found = gone()
    except StorageError:
        # rows can only be removed where there is room for the change: what can be made again makes it
        freed = 0 if dry_run else _drop_cache(repository.root / "cache")
        if not freed:
            raise
        found, size = gone(), size + freed
    repository.forget_graph()
    return replace(found, cached=files, bytes=found.bytes + size)


def _drop_cache(cache: Path) -> int:
    """Forget kept states and searches; the bytes that they had."""
    size = 0
    for path in [path for name in ("hot", "z") for path in (cache / name).rglob("*")]:
        with suppress(OSError):
            length = path.lstat().st_size
            path.unlink()
            size += length
    return size


def _trim_searches(directory: Path, *, grace: float, dry_run: bool) -> tuple[int, int]:
    """Forget the oldest z of earlier searches beyond `SEARCHES` bytes: (files, bytes). They only save time."""
    found = []
    with storage_errors(directory):
        for path in directory.glob("*/*.safetensors"):
            with suppress(FileNotFoundError):  # another gc was faster
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        kept = files = size = 0
        for modified, length, path in sorted(found, reverse=True):
            kept += length
            if kept > SEARCHES and time.time() - modified >= grace:
                files, size = files + 1, size + length
                if not dry_run:
                    path.unlink(missing_ok=True)
    return files, size
