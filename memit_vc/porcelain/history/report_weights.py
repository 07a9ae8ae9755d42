"""What commits did to the weights, and which facts get in each other's way: from the factors alone, without torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from memit_vc.errors import IntegrityError, MemitVCError, StorageError
from memit_vc.objects import Commit, CommitId, EditableWeight, FactId, PatchId
from memit_vc.page.data import Interference, Pair, Weights
from memit_vc.porcelain.history.diff_weights import base_norms
from memit_vc.porcelain.state import LiveState, Source

if TYPE_CHECKING:
    from memit_vc.numerics.exact.factored import Term
    from memit_vc.numerics.exact.grid import Floats
    from memit_vc.repository import Repository

NEWEST = 100
"""Commits in the table of weights."""
MOST_FACTS = 1000
"""Facts that are compared with each other: the work grows with their square."""
PAIRS = 50


def weights(repository: Repository, line: Sequence[Commit], numbers: Mapping[CommitId, int]) -> Weights:
    """‖Δ‖/‖W‖ of the newest commits of `line` (oldest first) that changed weights, by layer."""
    from memit_vc.numerics.exact.patchfile import state_terms

    changing = [commit for commit in line if commit.adds or commit.removes][-NEWEST:]
    adds = repository.selections({commit.id: commit.adds for commit in changing})
    removes = repository.selections({commit.id: commit.removes for commit in changing})
    found: dict[CommitId, dict[EditableWeight, float]] = {}
    missing = False
    editable = repository.weights()
    for commit in changing:
        changed: dict[EditableWeight, float] = {}
        for weight in editable:
            try:
                sides = [state_terms(repository.patch_path, side[commit.id], weight.name) for side in (adds, removes)]
            except (IntegrityError, StorageError):  # `fsck` names it; the report has the rest to show
                missing = True
                continue
            if any(sides):
                changed[weight] = _norm(*sides)
        found[commit.id] = changed
    by_layer: dict[int, list[EditableWeight]] = {}
    for weight in editable:
        if any(weight in row for row in found.values()):
            by_layer.setdefault(weight.layer, []).append(weight)
    norms, note = base_norms(repository, [weight for each in by_layer.values() for weight in each])
    if note is not None:  # it names a directory, and a report is mailed
        note = "the base is not here to compare with"
    if missing:
        note = "some patches are missing or damaged: run `memitvc fsck`"
    layers = tuple(sorted(by_layer))
    sizes = {layer: math.hypot(*(norms.get(w.name, 0.0) for w in by_layer[layer])) or 1.0 for layer in layers}
    rows = [
        (
            numbers[commit],
            tuple(
                math.hypot(*(row.get(weight, 0.0) for weight in by_layer[layer]))
                / (sizes[layer] if note is None else 1.0)
                for layer in layers
            ),
        )
        for commit, row in found.items()
    ]
    return Weights(layers, tuple(rows), note)


def _norm(plus: Sequence[Term], minus: Sequence[Term]) -> float:
    """‖Σ plus − Σ minus‖_F."""
    import numpy as np

    from memit_vc.numerics.exact.factored import Dense, LowRank, stacked

    d_out, d_in = [*plus, *minus][0].shape
    low = [term for term in plus if isinstance(term, LowRank)]
    low += [LowRank(-term.left, term.right) for term in minus if isinstance(term, LowRank)]
    dense = [term.delta for term in plus if isinstance(term, Dense)]
    dense += [-term.delta for term in minus if isinstance(term, Dense)]
    whole = stacked(low, d_out, d_in)
    if not dense:
        return whole.norm()
    return float(np.linalg.norm(sum(dense, start=whole.matrix())))


def interference(state: LiveState, numbers: Mapping[FactId, int]) -> Interference:
    """The pairs of live facts where one's column moves the output at the other's key the most.

    A fact's column is left · right with right = A⁻¹k. At the key k′ of another fact it adds left (right · k′). The
    share compares that with what the other fact's own column adds there.
    """
    sources = sorted(state.sources, key=lambda each: numbers.get(each.fact, -1))
    kept = sources[-MOST_FACTS:]
    note = f"only the newest {MOST_FACTS} facts were compared" if len(kept) < len(sources) else None
    keys, skipped = _keys(state.repository, kept)
    if skipped:
        note = f"{skipped} facts have no keys here (pushed without constraints, a dense patch, or a missing file)"
    facts = [source.fact for source in kept if source in keys]
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for weight in state.touched:
        chosen = [source for source in kept if source in keys and weight.name in keys[source]]
        try:
            shares = _shares(state.repository, weight, chosen, keys)
        except MemitVCError as error:
            note = f"layer {weight.layer} was not compared: {error.message}"
            continue
        for at, by, share in shares:
            pair = (numbers[chosen[at].fact], numbers[chosen[by].fact])
            if share > best.get(pair, (0.0, 0))[0]:
                best[pair] = (share, weight.layer)
    worst = sorted(best.items(), key=lambda item: -item[1][0])[:PAIRS]
    pairs = tuple(Pair(at, by, share, layer) for (at, by), (share, layer) in worst)
    return Interference(pairs, len(facts), note)


def _keys(repository: Repository, sources: Sequence[Source]) -> tuple[dict[Source, dict[str, Floats]], int]:
    """The key of each source by weight; how many have none."""
    from memit_vc.numerics.exact.constraints import read_constraints

    found: dict[Source, dict[str, Floats]] = {}
    patches = repository.patches({source.patch for source in sources})
    for name, patch in patches.items():
        if patch.constraints is None or not patch.header.divisible:
            continue
        with suppress(MemitVCError):  # `fsck` names what is missing or damaged; the report has the rest to show
            repository.patch_path(name)
            held = read_constraints(repository.object_path(patch.constraints))
            for source in sources:
                if source.patch == name:
                    found[source] = {weight: keys[:, source.position] for weight, keys in held.keys.items()}
    return found, len(sources) - len(found)


def _shares(
    repository: Repository,
    weight: EditableWeight,
    sources: Sequence[Source],
    keys: Mapping[Source, Mapping[str, Floats]],
) -> Iterable[tuple[int, int, float]]:
    """(at, by, share) of the worst pairs in one weight."""
    import numpy as np

    if len(sources) < 2:
        return []
    lefts: dict[Source, float] = {}
    rights: dict[Source, Floats] = {}
    for patch, held in _by_patch(sources).items():
        term = _factors(repository, patch, held, weight)
        for place, source in enumerate(held):
            lefts[source] = float(np.linalg.norm(term[0][:, place]))
            rights[source] = term[1][place]
    key = np.stack([keys[source][weight.name] for source in sources], axis=1).astype(np.float32)
    right = np.stack([rights[source] for source in sources]).astype(np.float32)
    moved = np.abs(right @ key) * np.array([lefts[source] for source in sources], np.float32)[:, None]  # [by, at]
    own = np.diag(moved).copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(own > 0, moved / own, 0.0)
    np.fill_diagonal(share, 0.0)
    worst = np.argsort(share, axis=None)[::-1][:PAIRS]
    places = (np.unravel_index(place, share.shape) for place in worst)
    return [(int(at), int(by), float(share[by, at])) for by, at in places if share[by, at] > 0]


def _by_patch(sources: Sequence[Source]) -> dict[PatchId, list[Source]]:
    found: dict[PatchId, list[Source]] = {}
    for source in sources:
        found.setdefault(source.patch, []).append(source)
    return found


def _factors(
    repository: Repository, patch: PatchId, sources: Sequence[Source], weight: EditableWeight
) -> tuple[Floats, Floats]:
    from memit_vc.numerics.exact.factored import LowRank
    from memit_vc.numerics.exact.patchfile import read_weight

    term = read_weight(repository.patch_path(patch), [source.position for source in sources], weight.name)
    if not isinstance(term, LowRank):
        raise IntegrityError(f"patch {patch[:10]} has no factors for {weight.name}", hint="Run `memitvc fsck`.")
    return term.left, term.right
