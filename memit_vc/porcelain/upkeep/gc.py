"""`gc`: remove objects that nothing reaches any more."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

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
    Objects younger than `grace` seconds stay. `dry_run` only counts.
    """
    gone = collect(
        repository.database,
        repository.blobs,
        repository.journal,
        keep_operations=keep_operations,
        grace=grace,
        dry_run=dry_run,
        progress=progress,
    )
    repository.forget_graph()
    files, size = _trim_searches(repository.root / "cache" / "z", grace=grace, dry_run=dry_run)
    return replace(gone, cached=files, bytes=gone.bytes + size)


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
