"""`reproduce`: compute a commit's patch again from its provenance, and compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memit_vc.errors import EngineError, MemitVCError, VerificationError
from memit_vc.numerics.exact.constraints import read_constraints
from memit_vc.numerics.exact.factored import Dense, Term, difference
from memit_vc.numerics.exact.patchfile import read_patch
from memit_vc.objects import Commit, CommitId, Patch, PatchId, StateId, short
from memit_vc.porcelain.editing.constraints import LiveConstraints, of_layer
from memit_vc.porcelain.editing.models import LoadedModel, model_of
from memit_vc.porcelain.editing.provenance import Recorded, chat_turns, shipped_texts, threads
from memit_vc.porcelain.editing.solver import Solver
from memit_vc.porcelain.state import LiveState, Source
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.store.blobs import blob_id


@dataclass(frozen=True)
class Reproduced:
    """`equal`: every column has the same bytes. `same_blob`: so does the whole patch, with its provenance (versions).
    `same_constraints`: so do keys and targets, with which `--resolve` solves again; None if they are not here, or if
    the patch itself was solved from them. A patch's id does not depend on them.

    `differences` are ‖new − old‖ / ‖old‖ of each weight's update.
    """

    commit: CommitId
    patch: PatchId
    columns: int
    equal: bool
    same_blob: bool
    same_constraints: bool | None
    other_texts: bool
    """Whether this version of memit-vc asks a search's facts in other texts than the one that made the patch."""
    differences: Mapping[str, float]

    @property
    def largest(self) -> float:
        return max(self.differences.values(), default=0.0)


def reproduce(
    repository: Repository,
    revision: str = "HEAD",
    *,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Reproduced:
    """Search the targets and solve again, as recorded: state, hyperparameters, templates, statistics, threads.

    Nothing is stored. MemitVCError for a commit that was not computed (a revert, a merge), or if its state is gone.
    """
    commit = repository.commit(repository.resolve(revision))
    old, recorded = _computed(repository, commit)
    loaded = model_of(repository, loaded, progress=progress)
    with threads(recorded.threads):
        again = _again if not recorded.resolved else _solved_again
        patch, blobs = again(loaded, commit, old, recorded, progress)
    _, before = read_patch(repository.patch_path(old.id))
    _, after = read_patch(blobs[-1])
    # of a mixture, an expert whose change is below the grid is left out: that is all of it
    names = sorted(before.keys() | after.keys())
    differences = {n: _difference(before[n], after[n]) if n in before and n in after else 1.0 for n in names}
    stored = old.constraints if old.constraints is not None and repository.blobs.has(old.constraints) else None
    return Reproduced(
        commit.id,
        old.id,
        len(old.columns),
        patch.columns == old.columns if old.header.divisible else not any(differences.values()),
        patch.id == old.id,
        None if stored is None or recorded.resolved else stored in map(blob_id, blobs),
        recorded.texts not in (None, shipped_texts()) and _asks(repository, old, recorded),
        differences,
    )


def _computed(repository: Repository, commit: Commit) -> tuple[Patch, Recorded]:
    """The one patch that a commit computed."""
    if commit.kind == "root":
        raise MemitVCError(f"{short(commit.id)} is the base itself", hint="Check a copy of it with `memitvc verify`.")
    recorded = None
    if commit.provenance is not None and repository.blobs.has(commit.provenance):
        recorded = Recorded.read(repository, commit.provenance)
    new = [patch for patch in map(repository.patch, commit.patches) if patch.header.provenance == commit.provenance]
    if recorded is None or len(new) != 1:
        kind = "an import" if commit.kind == "import" else f"a {commit.kind}"
        raise MemitVCError(
            f"{short(commit.id)} was not computed: it is {kind}, which only adds and removes columns",
            hint="Check its columns with `memitvc fsck`, or a checkout of it with `memitvc verify`.",
        )
    return new[0], recorded


def _asks(repository: Repository, old: Patch, recorded: Recorded) -> bool:
    """Whether the search asked anything that a version of memit-vc chooses."""
    if recorded.resolved:
        return False
    hparams = recorded.hparams
    if hparams.phrase_book or hparams.name_factor or hparams.keep_factor:
        return True
    facts = repository.facts({column.fact for column in old.header.columns})
    return any(fact.phrasings for fact in facts.values())


def _again(
    loaded: LoadedModel, commit: Commit, old: Patch, recorded: Recorded, progress: Progress
) -> tuple[Patch, tuple[bytes, ...]]:
    from memit_vc.porcelain.editing.batch import compute_batch

    repository = loaded.repository
    if [*recorded.turns] != chat_turns(loaded, recorded.hparams):
        raise VerificationError(
            f"the search of {short(commit.id)} asked in chat with other texts than this version does",
            hint="Use the versions of memit-vc and transformers that made it: its provenance names them.",
        )
    batch = compute_batch(
        loaded,
        [repository.fact(column.fact) for column in old.header.columns],
        _context(repository, commit, recorded.state),
        hparams=recorded.hparams,
        statistics=recorded.prepared(loaded, exactly=True, progress=progress),
        scores=False,
        search_again=True,
        max_tokens=recorded.max_tokens,
        progress=progress,
    )
    return batch.patch, batch.blobs


def _solved_again(
    loaded: LoadedModel, commit: Commit, old: Patch, recorded: Recorded, progress: Progress
) -> tuple[Patch, tuple[bytes, ...]]:
    import torch

    repository, described = loaded.repository, old.header.columns
    if old.constraints is None or not repository.blobs.has(old.constraints):
        raise EngineError(f"the constraints of patch {short(old.id)} are not here", hint="Pull them too.")
    statistics = recorded.prepared(loaded, exactly=True, progress=progress)
    solver = Solver(loaded, recorded.hparams, statistics, ())
    stored = read_constraints(repository.object_path(old.constraints))
    pairs = {layer: of_layer(stored, loaded.parts(layer)) for layer in recorded.hparams.layers}
    single = old.columns if old.header.divisible else old.columns * len(described)
    own = LiveConstraints(
        tuple(Source(column.fact, single[i], old.id, i) for i, column in enumerate(described)),
        {layer: torch.from_numpy(keys).double() for layer, (keys, _) in pairs.items()},
        {layer: torch.from_numpy(targets).double() for layer, (_, targets) in pairs.items()},
    )
    verb = recorded.verb or commit.kind
    if verb in ("squash", "merge"):
        solution, context = solver.whole(own), LiveState(repository, ())
    else:
        context = _context(repository, commit, recorded.state)
        leaving = {column.fact for column in described if column.role == "cancel"}
        out = [i for i, source in enumerate(solver.constraints(context).sources) if source.fact in leaving]
        into = own.select([i for i, column in enumerate(described) if column.role == "edit"])
        solution = solver.change(context, out=out, into=into)
    patch, blobs, *_ = solver.patch(solution, verb=verb, context=context, keep=context)
    return patch, blobs


def _context(repository: Repository, commit: Commit, state: StateId) -> LiveState:
    """The state that a patch was computed on."""
    if commit.parents:
        before = LiveState.at(repository, commit.parents[0])
        left = LiveState(repository, before.columns - set(commit.removes))
        if left.id == state:
            return left
    known = repository.commits_of_state(state)
    if not known:
        raise MemitVCError(
            f"the state {short(state)} that {short(commit.id)} was computed on is not in this repository",
            hint="Reproduce it in the repository where it was made: the commit came from another tip.",
        )
    return LiveState.at(repository, known[0])


def _difference(old: Term, new: Term) -> float:
    import numpy as np

    if isinstance(old, Dense) or isinstance(new, Dense):
        first = old.matrix()
        part, whole = float(np.linalg.norm(new.matrix() - first)), float(np.linalg.norm(first))
        return part / whole if whole else float(part > 0)
    if np.array_equal(old.left, new.left) and np.array_equal(old.right, new.right):
        return 0.0
    whole = old.norm()
    return difference(new, old).norm() / whole if whole else float("inf")
