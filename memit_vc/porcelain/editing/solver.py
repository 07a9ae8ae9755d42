"""The basis of every `--resolve`: the state's own λ, layers and statistics, its constraints, and a patch of the result.

A state is solved with the settings in its commits' provenance. The repository's present hyperparameters count only if
the commits disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memit_vc.errors import EngineError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.exact.constraints import encode_constraints, read_constraints
from memit_vc.numerics.exact.factored import LowRank, Term
from memit_vc.numerics.exact.grid import Floats
from memit_vc.objects import Patch, PatchColumn, StatisticsId, canonical_json, short
from memit_vc.porcelain.editing.constraints import LiveConstraints, live_constraints
from memit_vc.porcelain.editing.pack import pack
from memit_vc.porcelain.editing.provenance import describe
from memit_vc.porcelain.history.settings import RESOLVED, settings_of
from memit_vc.porcelain.state import LiveState, Source
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository

if TYPE_CHECKING:
    from torch import Tensor

    from memit_vc.porcelain.editing.models import LoadedModel
    from memit_vc.porcelain.editing.statistics import Prepared


_APART = 0.01
"""Snapping alone is far below it; a plain MEMIT history or a plain merge far above."""


@dataclass(frozen=True)
class Solution:
    """An update before it is snapped, per layer, with the constraint and the role of each of its columns."""

    updates: Mapping[int, LowRank]
    columns: tuple[PatchColumn, ...]
    constraints: LiveConstraints
    distance: float = 0.0
    """Of the state from the joint solution of its facts, if facts leave it (`numerics.edit.resolve.distance`)."""

    def notes(self) -> list[str]:
        """A warning about a state that is not the joint solution of its facts."""
        if self.distance <= _APART:
            return []
        return [
            f"HEAD's weights are not the joint solution of its facts ({self.distance:.1%} apart at their keys), but "
            "facts were taken out as if they were; for an exact result, run `memitvc squash --resolve` first"
        ]


@dataclass(frozen=True)
class Solver:
    """λC of each layer, ready to solve with. `notes` say if the commits' own settings could not be used."""

    loaded: LoadedModel
    hparams: MEMITHyperParams
    statistics: Prepared
    notes: tuple[str, ...]

    def constraints(self, state: LiveState) -> LiveConstraints:
        """Those of a state's live facts. EngineError if a blob is not here or is of other layers."""
        return live_constraints(state, self.loaded.parts, self.hparams.layers)

    def change(self, state: LiveState, *, out: Sequence[int], into: LiveConstraints) -> Solution:
        """Take the live facts number `out` (positions in `constraints(state)`) out of a state and put `into` in."""
        from memit_vc.numerics.edit.resolve import change, distance

        present = self.constraints(state)
        leaving = present.select(out)
        gone = set(out)
        staying = present.select([i for i in range(len(present.sources)) if i not in gone])
        updates, apart = {}, 0.0
        for layer in self.hparams.layers:
            factor = self.statistics.factor(layer)
            terms = [state.terms(weight) for weight in self.loaded.parts(layer)]
            if out:
                apart = max(apart, distance(factor, terms, *self._pair(present, layer)))
            updates[layer] = change(
                factor,
                terms,
                out=self._pair(leaving, layer),
                into=self._pair(into, layer),
                staying=self._pair(staying, layer),
            )
        columns = [PatchColumn(fact=source.fact, role="cancel") for source in leaving.sources]
        columns += [PatchColumn(fact=source.fact) for source in into.sources]
        return Solution(updates, tuple(columns), _joined(leaving, into), apart)

    def whole(self, constraints: LiveConstraints) -> Solution:
        """D(S) of all the given constraints."""
        from memit_vc.numerics.edit.resolve import whole

        updates = {
            layer: whole(self.statistics.factor(layer), *self._pair(constraints, layer))
            for layer in self.hparams.layers
        }
        return Solution(updates, tuple(PatchColumn(fact=s.fact) for s in constraints.sources), constraints)

    def patch(
        self, solution: Solution, *, verb: str, context: LiveState, keep: LiveState
    ) -> tuple[Patch, tuple[bytes, ...], float, Mapping[str, Term]]:
        """(patch, its blobs, largest relative change by snapping, its terms), for a solution on the state `context`.

        `keep` are the columns that stay live beside it. EngineError if sums with them could round.
        """
        loaded, repository = self.loaded, self.loaded.repository
        tensors, changes = dict[str, Term](), []
        for layer, update in solution.updates.items():
            made, moved = self._snapped(layer, update)
            tensors |= made
            changes.append(moved)
        stored = solution.constraints
        keys = {layer: loaded.split(layer, whole) for layer, whole in stored.keys.items()}
        constraints = encode_constraints(
            {weight.name: part.numpy() for parts in keys.values() for weight, part in parts},
            {parts[0][0].name: stored.targets[layer].numpy() for layer, parts in keys.items() if parts},
            _stored_z(repository, stored.sources),
        )
        record = describe(
            loaded,
            state=context.id,
            hparams=self.hparams,
            templates=self.hparams.context_templates or [],
            statistics=self.statistics,
            steps=(),
        )
        sources = sorted({source.patch for source in solution.constraints.sources})
        gone = {column.fact for column in solution.columns if column.role == "cancel"}
        cancels = sorted({column for fact in gone for column in context.edits.get(fact, ())})
        told = {"chat": [], "algorithm": RESOLVED, "verb": verb, "sources": sources, "cancels": cancels}
        provenance = canonical_json({**record, **told})
        patch, blobs = pack(repository, solution.columns, tensors, constraints=constraints, provenance=provenance)
        keep.check_exact(patch)
        return patch, blobs, max(changes), tensors

    def _snapped(self, layer: int, update: LowRank) -> tuple[dict[str, Term], float]:
        """The update of a layer's weights on their grids, and the relative change that this makes. What is below an
        expert's grid is left out.
        """
        from memit_vc.numerics.edit.resolve import snapped
        from memit_vc.numerics.exact.materialise import tensor_of

        made, moved, size = dict[str, Term](), 0.0, 0.0
        for weight, part in self.loaded.split(layer, tensor_of(update.right).T):
            wanted = LowRank(update.left, part.T.numpy())
            term, share = snapped(wanted, weight)
            if weight.expert is None or any(array.any() for array in term.arrays.values()):
                made[weight.name] = term
            moved, size = math.hypot(moved, share * wanted.norm()), math.hypot(size, wanted.norm())
        return made, moved / size if size else 0.0

    def _pair(self, constraints: LiveConstraints, layer: int) -> tuple[Tensor, Tensor]:
        import torch

        if not constraints.sources:
            d_out, d_in = self.loaded.adapter.dimensions(layer)
            none = torch.zeros(0, 0, dtype=torch.float64)
            return none.reshape(d_in, 0), none.reshape(d_out, 0)
        return constraints.keys[layer], constraints.targets[layer]


def solver_for(state: LiveState, *, loaded: LoadedModel | None = None, progress: Progress = silent) -> Solver:
    """The solver of a state, which includes the facts to put in. The model is loaded, no forward is run.

    EngineError if its columns were computed with different layers, or if an adapter is among them.
    """
    refuse_adapters(state, "--resolve")
    from memit_vc.porcelain.editing.models import model_of
    from memit_vc.porcelain.editing.statistics import prepare_statistics, recorded_statistics

    repository = state.repository
    repository.database.check_writable()
    present = repository.hparams()
    settings = settings_of(state)
    layers = {found[0] for found in settings}
    if len(layers) > 1:
        listed = " and ".join(str(list(each)) for each in sorted(layers))
        raise EngineError(
            f"the facts were computed with different layers: {listed}",
            hint="Revert one side without --resolve, and commit its facts again with the layers of the other.",
        )
    hparams, notes = present, []
    if layers:
        hparams = hparams.replace(layers=list(next(iter(layers))))
    loaded = model_of(repository, loaded, hparams=present, progress=progress)
    statistics = None
    if len(settings) == 1:
        ((_, weight, identifier),) = settings
        hparams = hparams.replace(mom2_update_weight=weight)
        statistics = recorded_statistics(repository, StatisticsId(identifier), hparams, progress=progress)
        if statistics is None:
            notes.append(f"statistics {short(identifier)} of the commits are not here; solved with the present ones")
    elif settings:
        notes.append("the commits were computed with different λ or statistics; solved with the repository's own")
    if statistics is None:
        statistics = prepare_statistics(loaded, hparams, progress=progress)
        if len(settings) == 1 and statistics.id == next(iter(settings))[2]:
            notes.clear()
    return Solver(loaded, hparams, statistics, tuple(notes))


def refuse_adapters(state: LiveState, what: str) -> None:
    """EngineError if an imported adapter is live: what is solved again is solved from facts alone."""
    if state.adapters.columns:
        raise EngineError(
            f"{what} replaces columns by what their facts ask for, and a live one has no facts: an imported adapter",
            hint="Leave off the option, or revert the adapter's commit first: `memitvc log` shows it.",
        )


def _joined(first: LiveConstraints, second: LiveConstraints) -> LiveConstraints:
    import torch

    if not first.sources or not second.sources:
        return first if first.sources else second
    return LiveConstraints(
        first.sources + second.sources,
        {layer: torch.cat([keys, second.keys[layer]], dim=1) for layer, keys in first.keys.items()},
        {layer: torch.cat([targets, second.targets[layer]], dim=1) for layer, targets in first.targets.items()},
    )


def _stored_z(repository: Repository, sources: Sequence[Source]) -> Floats:
    """z [n, d_model] float32 of the sources, in their order."""
    import numpy as np

    blobs = {source.patch: repository.patch(source.patch).constraints for source in sources}
    z = {patch: read_constraints(repository.object_path(blob)).z for patch, blob in blobs.items() if blob is not None}
    return np.stack([z[source.patch][source.position] for source in sources])
