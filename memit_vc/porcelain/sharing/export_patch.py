"""`export --patch`: commits in one file that `import` takes in elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from memit_vc.errors import UsageError
from memit_vc.objects import CommitId, short
from memit_vc.porcelain.sharing.push_tree import commit_files
from memit_vc.progress import Progress, silent
from memit_vc.remote.container import PATCH_REF, write_container
from memit_vc.remote.manifest import MANIFEST, RemoteManifest
from memit_vc.repository import Repository
from memit_vc.store.files import check_new_file

"""The branch of the tree in the file, at its last commit; `import` takes all commits."""


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

    Without `constraints` the file is smaller and the importer cannot re-solve with it. UsageError if `file` exists, or
    if the range is empty or holds the root; IntegrityError if an object is missing or damaged.
    """
    check_new_file(file)
    ids = repository.resolve_range(revision)
    found = repository.commits(ids)
    commits = [found[commit] for commit in ids]
    if not commits:
        raise UsageError(
            f"{revision}: holds no commit", hint="Name a range with commits; `memitvc log A..B` lists them."
        )
    for commit in commits:
        if commit.kind == "root":
            raise UsageError(
                f"{short(commit.id)} is the base itself, which changes nothing", hint="Name a commit, or a range A..B."
            )
    config = repository.config
    files = commit_files(repository, ids, constraints=constraints, progress=progress)
    manifest = RemoteManifest(
        repository.base_id, config.hub_base, config.revision, PATCH_REF.removeprefix("heads/"), {PATCH_REF: ids[-1]}
    )
    write_container(file, {**files, MANIFEST: manifest.encode()}, replace=False)
    patches = {patch for commit in commits for patch in commit.patches}
    held = repository.patches(patches).values()
    facts = {column.fact for patch in held for column in patch.header.columns}
    return PatchExport(file, tuple(ids), len(patches), len(facts), file.stat().st_size)
