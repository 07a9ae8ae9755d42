"""The base's hot and cold shards, as every checkout takes them: split once, and enough when the base itself is gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memit_vc.errors import BaseChangedError, IntegrityError, StorageError
from memit_vc.objects import EditableWeight, digest
from memit_vc.porcelain.base import checked_base, find_base
from memit_vc.progress import Progress
from memit_vc.store.shards import ShardedBase

if TYPE_CHECKING:
    from memit_vc.repository import Repository

__all__ = ["split_base"]


def split_base(
    repository: Repository, weights: Sequence[EditableWeight], progress: Progress, tell: Callable[[str], None]
) -> Path:
    """The directory with the shards, `weights` being the hot ones; split now unless that is done.

    `tell` hears what was found damaged, and that the base's directory is gone where the shards are still whole.
    BaseChangedError where the base is another one, or gone and not wholly here; otherwise as `prepare_base`.
    """
    from memit_vc.numerics.output.checkout import prepare_base

    into = repository.root / "base" / digest("hot", "\n".join(w.name for w in weights).encode())[:16]
    try:
        find_base(repository.config)
    except BaseChangedError as error:
        if not _is_whole(repository, into):
            raise
        tell(f"{error.message}; the checkout comes from the split base, {into}")
        return into
    checkpoint = checked_base(repository, progress=progress)
    prepare_base(checkpoint, weights, into, progress, manifest=repository.base(), tell=tell)
    return into


def _is_whole(repository: Repository, directory: Path) -> bool:
    """Whether every tensor and file of the recorded base is there; what changed since its making is read again."""
    manifest = repository.base()
    try:
        built = ShardedBase.open(directory)
        stale = built.stale()
        return not stale or not built.damaged(stale, manifest, repository.base_files())
    except (StorageError, IntegrityError):
        return False
