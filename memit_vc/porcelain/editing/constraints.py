"""The stored constraints (keys and targets) of a state's live facts: the input of new batches and re-solves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memit_vc.errors import EngineError
from memit_vc.numerics.exact.constraints import read_constraints
from memit_vc.numerics.exact.grid import Floats
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


def live_constraints(
    state: LiveState, weights: Callable[[int], Sequence[EditableWeight]], layers: Sequence[int]
) -> LiveConstraints:
    """K and B of the live facts of a state, in one order for all layers.

    `weights(layer)` are the layer's: one, or one for each expert, whose keys then stand below each other.
    EngineError if a blob is not here or is of other layers.
    """
    repository, sources = state.repository, state.sources
    if not sources:
        return LiveConstraints((), {}, {})
    parts = []
    for patch in sorted({source.patch for source in sources}):
        blob = repository.patch(patch).constraints
        if blob is None or not repository.blobs.has(blob):
            raise EngineError(
                f"the constraints of patch {short(patch)} are not in this repository",
                hint="Pull them too, or set `history: false` for a plain MEMIT batch.",
            )
        positions = tuple(source.position for source in sources if source.patch == patch)
        parts.append(read_constraints(repository.object_path(blob), positions))
        for layer in layers:
            if not any(weight.name in parts[-1].keys for weight in weights(layer)):
                raise EngineError(
                    f"patch {short(patch)} has no constraints for {weights(layer)[0].name}",
                    hint="Use the layers that it was computed with, or set `history: false`.",
                )

    keys = {layer: _beside([_stacked(part.keys, weights(layer), part.n) for part in parts]) for layer in layers}
    targets = {layer: _beside([_first(part.targets, weights(layer)) for part in parts]) for layer in layers}
    return LiveConstraints(tuple(sources), keys, targets)


def _stacked(keys: Mapping[str, Floats], weights: Sequence[EditableWeight], n: int) -> Floats:
    """The layer's keys; zeros for the experts that no fact of the patch reaches."""
    import numpy as np

    if len(weights) == 1:
        return keys[weights[0].name]
    none = np.zeros((weights[0].d_in, n), np.float32)
    return np.concatenate([keys.get(weight.name, none) for weight in weights])


def _first(targets: Mapping[str, Floats], weights: Sequence[EditableWeight]) -> Floats:
    """The layer's targets: they are the same for every expert."""
    return next(targets[weight.name] for weight in weights if weight.name in targets)


def _beside(parts: Sequence[Floats]) -> Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.concatenate(parts, axis=1)).double()
