"""`gc`: remove what nobody can reach any more."""

from __future__ import annotations

from memit_vc.progress import Progress, silent
from memit_vc.repository import GcResult, Repository

__all__ = ["GRACE", "collect_garbage"]

GRACE = 3600.0
"""Seconds for which a new object stays even unreferenced: a commit that is still computing may be about to use it."""


def collect_garbage(
    repository: Repository,
    *,
    dry_run: bool = False,
    prune_operations: bool = False,
    keep_operations: int = 0,
    grace: float = GRACE,
    progress: Progress = silent,
) -> GcResult:
    """Remove commits, patches and facts that no branch, tag, operation or kept patch reaches, and their objects.

    Operations keep what they name, so that `undo` can bring it back: with `prune_operations` all but the last
    `keep_operations` are forgotten first, and what they alone held goes too.
    """
    return repository.gc(
        keep_operations=keep_operations if prune_operations else None, grace=grace, dry_run=dry_run, progress=progress
    )
