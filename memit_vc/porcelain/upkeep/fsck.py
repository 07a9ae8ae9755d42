"""`fsck`: check that everything stored is what its name and the history say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from memit_vc.errors import MemitVCError
from memit_vc.numerics.exact.constraints import read_constraints
from memit_vc.numerics.exact.patchfile import check_patch
from memit_vc.numerics.exact.received import constraints_fit
from memit_vc.objects import BlobId, StateId, short
from memit_vc.porcelain.output.recorded import recorded_hashes, take_back
from memit_vc.porcelain.output.verify import state_hashes
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.caches import damaged_caches, damaged_statistics, take_back_state
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.store.parsed import BAD_JSON
from memit_vc.store.records import Problem
from memit_vc.store.shards import ShardedBase


def fsck(
    repository: Repository, *, quick: bool = False, weights: bool = False, progress: Progress = silent
) -> tuple[list[Problem], int]:
    """(problems, number of orphan blobs).

    Reads every blob and every shard of the base, and checks every patch's factors; with `quick`, only shards that were
    written into since. `weights` also checks the recorded hashes that `verify` goes by: it materialises each such
    state, which needs the base and takes as long as a checkout of each.

    What is kept only to save time, and is damaged, is taken back where the repository can be written: stamps of shards,
    cached shards and z, factors, recorded hashes. The next command that needs it makes it again.
    """
    problems = repository.fsck(quick=quick, check_patch=None if quick else check_patch, progress=progress)
    for problem in problems:
        if problem.kind == "evaluation":
            with suppress(MemitVCError):
                take_back(repository, StateId(problem.object))
    problems += _shards(repository, quick=quick, progress=progress)
    if not quick:
        problems += _constraints(repository, progress)
        problems += damaged_statistics(repository)
        problems += damaged_caches(repository, progress=progress)
    if weights:
        problems += _states(repository, progress)
    orphans: list[BlobId] = []
    with suppress(MemitVCError):  # a damaged row is in the way, and reported
        orphans = repository.orphans()
    return problems, len(orphans)


def _constraints(repository: Repository, progress: Progress) -> Iterator[Problem]:
    """Constraints blobs that are intact and still cannot be read."""
    recorded = {patch: blob for patch, blob in repository.patch_constraints().items() if blob is not None}
    known = {weight.name: weight for weight in repository.weights()}
    for number, (patch, blob) in enumerate(recorded.items(), 1):
        if repository.blobs.verify(blob):  # else it is reported as missing or damaged
            try:
                found = read_constraints(repository.blobs.path(blob))
            except MemitVCError as error:
                yield Problem("patch", patch, f"its constraints {short(blob)} cannot be read: {error.message}")
                continue
            if not constraints_fit(found, known, len(repository.patch(patch).header.columns)):
                yield Problem("patch", patch, f"its constraints {short(blob)} are of other facts or weights")
        progress("checking constraints", number, len(recorded))


def _states(repository: Repository, progress: Progress) -> Iterator[Problem]:
    """Recorded hashes that are not those of the state's tensors."""
    every = (LiveState.at(repository, commit) for commit in repository.stored_commits())
    states = {state.id: state for state in every}
    base = {tensor.name: tensor.sha256 for tensor in repository.base().tensors}
    for number, (identifier, state) in enumerate(states.items(), 1):
        recorded = recorded_hashes(repository, identifier)
        if recorded is not None:
            made = state_hashes(state)
            expected = {**base, **made}
            wrong = sorted(name for name in {*made, *recorded} if recorded.get(name) != expected.get(name))
            if wrong:
                take_back_state(repository, identifier, expected)
                yield Problem(
                    "evaluation",
                    identifier,
                    f"the recorded hash of {wrong[0]} was not that of its weights, so it was taken back; check its "
                    "earlier checkouts with `memitvc verify DIR`",
                )
        progress("materialising states", number, len(states))


def _shards(repository: Repository, *, quick: bool, progress: Progress) -> Iterator[Problem]:
    """Damage in the built shards: later checkouts would take their bytes."""
    built = sorted(path.parent for path in (repository.root / "base").glob("*/base.json"))
    try:
        manifest, others = (repository.base(), repository.base_files()) if built else (None, {})
    except (MemitVCError, *BAD_JSON):
        return  # the rows are damaged, and reported as such
    for number, directory in enumerate(built, 1):
        try:
            base = ShardedBase.open(directory)
        except MemitVCError as error:
            yield Problem("base", directory.name, error.message)
            continue
        files = base.stale() if quick else base.paths()
        damaged = base.damaged(files, manifest, others) if manifest is not None else []
        if damaged:
            base.forget(damaged)
        for file in damaged:
            yield Problem("base", file, f"{directory / file} is not the base's; the next checkout builds it again")
        progress("checking the base's shards", number, len(built))
