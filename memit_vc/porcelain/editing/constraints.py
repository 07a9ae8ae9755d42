"""The stored constraints (keys and targets) of a state's live facts: the input of new batches and re-solves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memit_vc.errors import EngineError
from memit_vc.numerics.exact.constraints import Constraints, read_constraints
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

    pairs = {layer: [of_layer(part, weights(layer)) for part in parts] for layer in layers}
    keys = {layer: _beside([keys for keys, _ in found]) for layer, found in pairs.items()}
    targets = {layer: _beside([targets for _, targets in found]) for layer, found in pairs.items()}
    return LiveConstraints(tuple(sources), keys, targets)


def of_layer(part: Constraints, weights: Sequence[EditableWeight]) -> tuple[Floats, Floats]:
    """K and B of one layer's weights. Of experts the keys stand below each other, with zeros for those that no fact of
    the patch reaches, and the targets are the same for every expert.
    """
    import numpy as np

    targets = next(part.targets[weight.name] for weight in weights if weight.name in part.targets)
    if len(weights) == 1:
        return part.keys[weights[0].name], targets
    none = np.zeros((weights[0].d_in, part.n), np.float32)
    return np.concatenate([part.keys.get(weight.name, none) for weight in weights]), targets


def _beside(parts: Sequence[Floats]) -> Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.concatenate(parts, axis=1)).double()
