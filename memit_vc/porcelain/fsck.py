"""`fsck`: everything that is stored is what it says it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from memit_vc.errors import MemitVCError
from memit_vc.progress import Progress, silent
from memit_vc.store.base_check import damaged_files, shard_files, stale_files
from memit_vc.store.records import Problem
from memit_vc.store.shards import ShardedBase

if TYPE_CHECKING:
    from memit_vc.repository import Repository

__all__ = ["fsck"]

_BAD_JSON = (KeyError, TypeError, ValueError, AttributeError)


def fsck(repository: Repository, *, full: bool = True, progress: Progress = silent) -> tuple[list[Problem], int]:
    """(problems, number of orphan blobs).

    With `full` every blob and every shard of the base is read, and every patch's factors are checked; without it, only
    the shards that somebody wrote into since.
    """
    from memit_vc.numerics.patchfile import check_patch

    problems = repository.fsck(full=full, check_patch=check_patch if full else None, progress=progress)
    problems += _shards(repository, full=full, progress=progress)
    return problems, len(repository.orphans())


def _shards(repository: Repository, *, full: bool, progress: Progress) -> Iterator[Problem]:
    """What is wrong with the built shards: later checkouts would take their bytes."""
    built = sorted(path.parent for path in (repository.root / "base").glob("*/base.json"))
    try:
        manifest, others = (repository.base(), repository.base_files()) if built else (None, {})
    except (MemitVCError, *_BAD_JSON):
        return  # the rows are damaged, and told as such
    for number, directory in enumerate(built, 1):
        try:
            base = ShardedBase.open(directory)
        except MemitVCError as error:
            yield Problem("base", directory.name, error.message)
            continue
        files = shard_files(base) if full else stale_files(base)
        for file in damaged_files(base, files, manifest, others) if manifest is not None else ():
            yield Problem("base", file, f"{directory / file} is not the base's; the next checkout builds it again")
        progress("checking the base's shards", number, len(built))
