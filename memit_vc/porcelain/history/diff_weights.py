"""`diff --weights`: how far two states are apart in each tensor, computed from the factors alone."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from memit_vc.errors import MemitVCError
from memit_vc.objects import CommitId, EditableWeight, JsonValue
from memit_vc.porcelain.base import checked_base
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import count
from memit_vc.repository import Repository
from memit_vc.store.jsoncache import recall, remember

_TOP = 5


@dataclass(frozen=True)
class TensorChange:
    """One tensor: rank, Frobenius norm and singular values (descending) of the difference, and the base's norm."""

    name: str
    layer: int
    rank: int
    norm: float
    base_norm: float | None
    singular_values: tuple[float, ...]

    @property
    def relative(self) -> float | None:
        """The norm as a share of the base tensor's."""
        return self.norm / self.base_norm if self.base_norm else None

    @property
    def top(self) -> tuple[float, ...]:
        return self.singular_values[:_TOP]

    def to_json(self) -> dict[str, JsonValue]:
        return {**vars(self), "relative": self.relative}


@dataclass(frozen=True)
class WeightsDiff:
    """The tensors that differ, by layer. `note` says why relative norms are missing, if they are."""

    tensors: tuple[TensorChange, ...]
    note: str | None

    @property
    def sentence(self) -> str:
        """ "5 tensors, rank 13, 4.1 % of their norm"."""
        if not self.tensors:
            return "no tensor differs"
        rank = max(tensor.rank for tensor in self.tensors)
        text = f"{count(len(self.tensors), 'tensor')}, rank {rank}"
        norms = [tensor.base_norm for tensor in self.tensors if tensor.base_norm]
        if len(norms) < len(self.tensors):
            return text
        share = math.hypot(*(tensor.norm for tensor in self.tensors)) / math.hypot(*norms)
        return f"{text}, {100 * share:{'.2g' if share < 0.1 else '.0f'}} % of their norm"

    def to_json(self) -> dict[str, JsonValue]:
        return {"summary": self.sentence, "tensors": [tensor.to_json() for tensor in self.tensors]}


def diff_weights(repository: Repository, older: CommitId, newer: CommitId) -> WeightsDiff:
    """Every tensor whose delta differs between two commits. Columns that both have cancel exactly and are not read."""
    from memit_vc.numerics.exact.weights_diff import spectrum

    before, after = (LiveState.at(repository, commit).columns for commit in (older, newer))
    sides = [LiveState(repository, columns) for columns in (after - before, before - after)]
    touched = LiveState(repository, before ^ after).touched
    spectra = {weight: spectrum(*(side.terms(weight) for side in sides)) for weight in touched}
    found = {weight: values for weight, values in spectra.items() if values}
    norms, note = base_norms(repository, found)
    changes = [
        TensorChange(weight.name, weight.layer, len(values), math.hypot(*values), norms.get(weight.name), values)
        for weight, values in found.items()
    ]
    return WeightsDiff(tuple(changes), note)


def base_norms(repository: Repository, weights: Collection[EditableWeight]) -> tuple[dict[str, float], str | None]:
    """Frobenius norms of base tensors, remembered by their hash in `cache/base-norms.json`."""
    from memit_vc.numerics.exact.weights_diff import sum_of_squares

    path = repository.root / "cache" / "base-norms.json"
    known: dict[str, float] = {sha: norm for sha, norm in recall(path).items() if isinstance(norm, float)}
    hashes = {tensor.name: tensor.sha256 for tensor in repository.base().tensors}
    missing = [weight for weight in weights if hashes[weight.name] not in known]
    note = None
    if missing:
        try:
            checkpoint = checked_base(repository)
            for weight in missing:
                known[hashes[weight.name]] = math.sqrt(sum_of_squares(checkpoint.chunks(weight.name), weight.dtype))
            remember(path, known)
        except MemitVCError as error:
            note = f"no relative norms: {error.message}"
    return {w.name: known[hashes[w.name]] for w in weights if hashes[w.name] in known}, note
