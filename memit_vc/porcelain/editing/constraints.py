"""The stored constraints (keys and targets) of a state's live facts: what a new batch and every re-solve stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memit_vc.errors import EngineError
from memit_vc.objects import EditableWeight, short
from memit_vc.porcelain.state import LiveState, Source

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LiveConstraints:
    """Per layer K [d_in, m] and B [d_out, m], float64, B relative to the base; column j belongs to `sources[j]`."""

    sources: tuple[Source, ...]
    keys: Mapping[int, Tensor]
    targets: Mapping[int, Tensor]

    def select(self, chosen: Sequence[int]) -> LiveConstraints:
        """The same with some columns only, in the given order."""
        picked = list(chosen)
        return LiveConstraints(
            tuple(self.sources[i] for i in picked),
            {layer: keys[:, picked] for layer, keys in self.keys.items()},
            {layer: targets[:, picked] for layer, targets in self.targets.items()},
        )


def live_constraints(state: LiveState, weights: Mapping[int, EditableWeight], layers: Sequence[int]) -> LiveConstraints:
    """K and B of the live facts of a state, in one order for all layers. EngineError where a blob is not here."""
    import torch

    from memit_vc.numerics.exact.constraints import read_constraints

    repository, sources = state.repository, state.sources
    keys: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    targets: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for patch in sorted({source.patch for source in sources}):
        blob = repository.patch(patch).constraints
        if blob is None or not repository.blobs.has(blob):
            raise EngineError(
                f"the constraints of patch {short(patch)} are not in this repository",
                hint="Pull them too, or set `history: false` for a plain MEMIT batch.",
            )
        positions = tuple(source.position for source in sources if source.patch == patch)
        found = read_constraints(repository.blobs.path(blob), positions)
        for layer in layers:
            name = weights[layer].name
            if name not in found.keys:
                raise EngineError(
                    f"patch {short(patch)} has no constraints for {name}",
                    hint="It was computed with other layers; use the same layers, or set `history: false`.",
                )
            keys[layer].append(torch.from_numpy(found.keys[name]).double())
            targets[layer].append(torch.from_numpy(found.targets[name]).double())
    if not sources:
        return LiveConstraints((), {}, {})
    return LiveConstraints(
        tuple(sources),
        {layer: torch.cat(parts, dim=1) for layer, parts in keys.items()},
        {layer: torch.cat(parts, dim=1) for layer, parts in targets.items()},
    )
