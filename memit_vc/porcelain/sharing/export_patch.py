"""`export --patch`: commits in one file that `import` takes in elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memit_vc.errors import UsageError
from memit_vc.objects import BlobId, CommitId, FactId, PatchId, short
from memit_vc.porcelain.sharing.bundle import Manifest, write_bundle
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.store.files import storage_errors

if TYPE_CHECKING:
    from memit_vc.repository import Repository

__all__ = ["PatchExport", "export_patch"]


@dataclass(frozen=True)
class PatchExport:
    """What the file holds: commits oldest first, patches, facts."""

    file: Path
    commits: tuple[CommitId, ...]
    patches: int
    facts: int
    bytes: int


def export_patch(
    repository: Repository,
    revision: str,
    file: Path,
    *,
    constraints: bool = True,
    progress: Progress = silent,
) -> PatchExport:
    """Write the change of one commit, or of each commit of A..B, to `file`: patches, facts, provenance.

    Without `constraints` the file is smaller and the importer cannot re-solve with it. UsageError where `file` exists,
    where the range is empty or holds the root; IntegrityError where an object is missing or damaged.
    """
    with storage_errors(file):
        if file.exists():
            raise UsageError(f"{file}: exists", hint="Choose another name; nothing is overwritten.")
    ids = repository.resolve_range(revision)
    found = repository.commits(ids)
    commits = [found[commit] for commit in ids]
    if not commits:
        raise UsageError(f"{revision}: holds no commit", hint="`memitvc log A..B` shows what a range holds.")
    for commit in commits:
        if commit.kind == "root":
            raise UsageError(
                f"{short(commit.id)} is the base itself, which changes nothing", hint="Name a commit, or a range A..B."
            )
    patches: dict[PatchId, BlobId | None] = {}
    facts: dict[FactId, None] = {}
    blobs: set[BlobId] = set()
    for commit in commits:
        for patch, known in LiveState(repository, commit.adds).patches.items():
            kept = known.constraints if constraints and known.constraints is not None else None
            # a blob that was never pulled is no reason not to pass the patch on
            patches[patch] = kept if kept is not None and repository.blobs.has(kept) else None
            facts |= dict.fromkeys(column.fact for column in known.header.columns)
            blobs |= {BlobId(patch), *(b for b in (patches[patch], known.header.provenance) if b is not None)}
        if commit.provenance is not None:
            blobs.add(commit.provenance)
    rows = repository.facts(list(facts))
    manifest = Manifest(repository.base_id, tuple(commits), tuple(rows[fact] for fact in facts), patches)
    for number, blob in enumerate(sorted(blobs), 1):
        repository.blobs.read(blob)  # damage is better found here than by whoever gets the file
        progress("check objects", number, len(blobs))
    write_bundle(file, manifest, {blob: repository.blobs.path(blob) for blob in blobs})
    return PatchExport(file, tuple(ids), len(patches), len(facts), file.stat().st_size)
