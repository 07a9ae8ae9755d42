"""`fsck`: everything that is stored is what it says it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memit_vc.progress import Progress, silent

if TYPE_CHECKING:
    from memit_vc.repository import Problem, Repository

__all__ = ["fsck"]


def fsck(repository: Repository, *, full: bool = True, progress: Progress = silent) -> tuple[list[Problem], int]:
    """(problems, number of orphan blobs). With `full` every blob is read, and every patch's factors are checked."""
    from memit_vc.numerics.patchfile import check_patch

    problems = repository.fsck(full=full, check_patch=check_patch if full else None, progress=progress)
    return problems, len(repository.orphans())
