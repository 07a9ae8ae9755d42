"""`fsck`: everything that is stored is what it says it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from memit_vc.errors import MemitVCError
from memit_vc.objects import Patch, short
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.store.fsck import BAD_JSON
from memit_vc.store.records import Problem
from memit_vc.store.shards import ShardedBase

if TYPE_CHECKING:
    from memit_vc.repository import Repository


def fsck(
    repository: Repository, *, quick: bool = False, weights: bool = False, progress: Progress = silent
) -> tuple[list[Problem], int]:
    """(problems, number of orphan blobs).

    Every blob and every shard of the base is read, and every patch's factors are checked; with `quick`, only the shards
    that somebody wrote into since. `weights` also materialises every state whose tensors' hashes are recorded, for
    `verify` goes by them: that needs the base and takes as long as so many checkouts.
    """
    problems = repository.fsck(quick=quick, check_patch=None if quick else _factors, progress=progress)
    problems += _shards(repository, quick=quick, progress=progress)
    if not quick:
        problems += _constraints(repository, progress)
    if weights:
        problems += _states(repository, progress)
    return problems, len(repository.orphans())


def _factors(path: Path, patch: Patch) -> list[str]:
    from memit_vc.numerics.exact.patchfile import check_patch

    return check_patch(path, patch)


def _constraints(repository: Repository, progress: Progress) -> Iterator[Problem]:
    """Constraints that have the bytes of their name and still cannot be solved with."""
    from memit_vc.numerics.exact.constraints import read_constraints

    recorded = {patch: blob for patch, blob in repository.patch_constraints().items() if blob is not None}
    for number, (patch, blob) in enumerate(recorded.items(), 1):
        if repository.blobs.verify(blob):  # else it is told as missing or damaged
            try:
                read_constraints(repository.blobs.path(blob))
            except MemitVCError as error:
                yield Problem("patch", patch, f"its constraints {short(blob)} cannot be read: {error.message}")
        progress("checking constraints", number, len(recorded))


def _states(repository: Repository, progress: Progress) -> Iterator[Problem]:
    """Recorded hashes of tensors that are not those of the state."""
    from memit_vc.porcelain.output.verify import state_hashes

    every = (LiveState.at(repository, commit) for commit in repository.stored_commits())
    states = {state.id: state for state in every}
    for number, (identifier, state) in enumerate(states.items(), 1):
        recorded = repository.evaluations(identifier, "tensors").get(("tensors", "sha256"))
        if isinstance(recorded, Mapping):
            made = state_hashes(state)
            wrong = sorted(name for name, sha in made.items() if recorded.get(name) != sha)
            if wrong:
                yield Problem("evaluation", identifier, f"the recorded hash of {wrong[0]} is not that of its weights")
        progress("materialising states", number, len(states))


def _shards(repository: Repository, *, quick: bool, progress: Progress) -> Iterator[Problem]:
    """What is wrong with the built shards: later checkouts would take their bytes."""
    built = sorted(path.parent for path in (repository.root / "base").glob("*/base.json"))
    try:
        manifest, others = (repository.base(), repository.base_files()) if built else (None, {})
    except (MemitVCError, *BAD_JSON):
        return  # the rows are damaged, and told as such
    for number, directory in enumerate(built, 1):
        try:
            base = ShardedBase.open(directory)
        except MemitVCError as error:
            yield Problem("base", directory.name, error.message)
            continue
        files = base.stale() if quick else base.paths()
        for file in base.damaged(files, manifest, others) if manifest is not None else ():
            yield Problem("base", file, f"{directory / file} is not the base's; the next checkout builds it again")
        progress("checking the base's shards", number, len(built))
