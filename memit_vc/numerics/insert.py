"""Spread the residual over the edited layers: keys, current z, solve, apply, next layer.

Meng et al. 2023 (arXiv:2210.07229), algorithm 1. The change against the paper is the history term of `solve.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memit_vc.numerics.adapter import ModelAdapter
from memit_vc.numerics.factors import Factor
from memit_vc.numerics.keys import Frontier
from memit_vc.numerics.masters import masters
from memit_vc.numerics.solve import adjusted_keys
from memit_vc.numerics.tokens import Template
from memit_vc.objects import Fact

__all__ = ["LayerUpdate", "insert"]


@dataclass(frozen=True)
class LayerUpdate:
    """One layer's update Δ = residual @ adjusted.T, all float64 in y = W x orientation.

    `keys` K [d_in, n] (exact in float32), `residual` R [d_out, n], `adjusted` A⁻¹K [d_in, n].
    `targets` B = D_before K + R [d_out, n] (exact in float32): the targets relative to the base.
    """

    keys: Tensor
    residual: Tensor
    adjusted: Tensor
    targets: Tensor

    @property
    def delta(self) -> Tensor:
        """Δ [d_out, d_in]."""
        return self.residual @ self.adjusted.T


def insert(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    z: Tensor,
    *,
    layers: Sequence[int],
    templates: Sequence[Sequence[Template]],
    factor: Callable[[int], Factor],
    before: Mapping[int, Tensor] | None = None,
    history: Mapping[int, Tensor] | None = None,
    on_layer: Callable[[int], None] | None = None,
) -> dict[int, LayerUpdate]:
    """The update of each edited layer for targets `z` [n, d_model].

    `factor(layer)` gives the factored λC. `before[layer]` is D [d_out, d_in] float64, the live delta that is not in the
    model's weights; `history[layer]` [d_in, m] the keys of the live facts. The model is given back bit-identical.
    """
    updates: dict[int, LayerUpdate] = {}
    with masters(adapter, layers) as weights:
        start = {layer: weights[layer].double() for layer in layers}
        if before is not None:
            for layer in layers:
                start[layer] = start[layer] + before[layer].to(start[layer])
                weights[layer].copy_(start[layer])
        frontier = Frontier(adapter, facts, layers=layers, templates=templates)
        for index, layer in enumerate(layers):
            keys = frontier.keys(layer).double()
            current = frontier.current(layer)
            residual = (z.to(current.device).T - current).double() / (len(layers) - index)
            past = None if before is None else before[layer].to(keys) @ keys
            targets = residual if past is None else past + residual
            if past is not None:
                # what is stored is float32: make the residual the one that the stored targets mean
                targets = targets.float().double()
                residual = targets - past
            solved = adjusted_keys(
                factor(layer),
                keys.cpu(),
                history=None if history is None else history[layer].cpu(),
            )
            update = LayerUpdate(keys.cpu(), residual.cpu(), solved, targets.cpu())
            updates[layer] = update
            with torch.no_grad():
                weights[layer].copy_(start[layer] + update.delta.to(start[layer]))
            if on_layer is not None:
                on_layer(index + 1)
    return updates
