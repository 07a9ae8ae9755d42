"""Likely conflicts: facts with other targets whose keys overlap in the metric of C.

An edit writes at its key k; it moves another fact with key k′ by k′ᵀ C⁻¹ k. With an overlap near 1, two facts want
different answers from the same place in the model, however they are worded.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from memit_vc.errors import EngineError
from memit_vc.numerics.statistics.cache import StatisticsCache, StatisticsKey
from memit_vc.objects import ColumnId, CommitId, EditableWeight, Fact, JsonValue, StatisticsId
from memit_vc.porcelain.editing.constraints import live_constraints
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository

LIKELY = 0.8
"""Overlap from which a conflict is likely; 1 is the same key."""


@dataclass(frozen=True)
class Overlap:
    """k₁ᵀC⁻¹k₂ / √(k₁ᵀC⁻¹k₁ · k₂ᵀC⁻¹k₂) of two facts with different targets, at the layer where it is largest."""

    ours: Fact
    theirs: Fact
    value: float
    layer: int

    def line(self) -> str:
        return (
            f"{self.theirs.prompt!r} → {self.theirs.target!r} and {self.ours.prompt!r} → {self.ours.target!r} "
            f"overlap by {self.value:.2f} at layer {self.layer}"
        )

    def to_json(self) -> dict[str, JsonValue]:
        return {**vars(self), "ours": self.ours.id, "theirs": self.theirs.id}


def commit_overlaps(repository: Repository, commit: CommitId, *, threshold: float = LIKELY) -> list[Overlap]:
    """Likely conflicts between the facts that a commit added and earlier ones, or between the sides of a merge.

    Only facts that are live at the commit count. Errors as `overlaps`.
    """
    made, after = repository.commit(commit), LiveState.at(repository, commit)
    ours, theirs = frozenset[ColumnId](), frozenset(made.adds)
    if made.parents:
        ours = LiveState.at(repository, made.parents[0]).columns - set(made.removes)
    if len(made.parents) > 1:
        # a merge that was solved again has no column of either side
        before, theirs = (LiveState.at(repository, parent).columns for parent in made.parents[:2])
        ours, theirs = before - theirs, theirs - before
    live = {entry.fact.id for entry in after.live}
    found = overlaps(LiveState(repository, ours), LiveState(repository, theirs), threshold=threshold)
    return [overlap for overlap in found if {overlap.ours.id, overlap.theirs.id} <= live]


def overlaps(ours: LiveState, theirs: LiveState, *, threshold: float = LIKELY) -> list[Overlap]:
    """Pairs of one live fact of each side whose targets differ and whose keys overlap by at least `threshold`, the
    closest first. Certain conflicts (one question, two answers) are among them.

    EngineError if statistics or constraints are missing: nothing is computed or fetched for a warning.
    """
    import torch

    repository, hparams = ours.repository, ours.repository.hparams()
    statistics = _statistics(repository, hparams.layers)
    weights: dict[int, list[EditableWeight]] = {}
    for weight in repository.fact_weights():
        weights.setdefault(weight.layer, []).append(weight)
    sides = [live_constraints(side, weights.__getitem__, hparams.layers) for side in (ours, theirs)]
    if not all(side.sources for side in sides):
        return []
    facts = repository.facts({source.fact for side in sides for source in side.sources})
    cache = StatisticsCache(repository.root / "statistics")
    cosines = []
    for layer in hparams.layers:
        factor = cache.factor(statistics, layer, hparams.mom2_update_weight)
        # with λC = L Lᵀ the product in the metric of C⁻¹ is the plain one of L⁻¹k, up to λ, which cancels
        whitened = (factor.whiten(side.keys[layer]) for side in sides)
        first, second = (torch.nn.functional.normalize(keys, dim=0) for keys in whitened)
        cosines.append(first.T @ second)
    best, where = torch.stack(cosines).max(dim=0)
    found = []
    for i, j in (best >= threshold).nonzero().tolist():
        one, other = facts[sides[0].sources[i].fact], facts[sides[1].sources[j].fact]
        if one.claim[1] != other.claim[1]:
            found.append(Overlap(one, other, float(best[i, j]), hparams.layers[int(where[i, j])]))
    return sorted(found, key=lambda overlap: -overlap.value)


def _statistics(repository: Repository, layers: Collection[int]) -> StatisticsId:
    """The newest statistics that cover the layers."""
    for identifier, record in reversed(repository.statistics().items()):
        if isinstance(record, dict) and set(layers) <= set(StatisticsKey.from_json(record).layers):
            return identifier
    raise EngineError(
        "likely conflicts cannot be found: there are no statistics of the layers in use",
        hint="Compute them with `memitvc stats`.",
    )
