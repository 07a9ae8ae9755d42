"""Spread the residual over the edited layers: keys, current z, solve, apply, next layer.

Meng et al. 2023 (arXiv:2210.07229), algorithm 1. The change against the paper is the history term of `solve.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from memit_vc.numerics.edit.keys import Frontier
from memit_vc.numerics.edit.solve import adjusted_keys
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.devices import CPU, computed_on, float64_device, solve_device
from memit_vc.numerics.model.masters import masters
from memit_vc.numerics.statistics.factors import BlockFactor, Factor
from memit_vc.objects import Fact


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

    @property
    def leverage(self) -> Tensor:
        """kᵀA⁻¹k of each fact [n], in [0, 1): the share of its residual that its own column adds at its own key."""
        return (self.keys * self.adjusted).sum(0)


def insert(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    z: Tensor | None,
    *,
    layers: Sequence[int],
    templates: Sequence[Sequence[Template]],
    factor: Callable[[int], Factor | BlockFactor],
    before: Mapping[int, Tensor] | None = None,
    history: Mapping[int, Tensor] | None = None,
    passes: int = 1,
    anchors: Sequence[Template] | None = None,
    begun: Mapping[int, LayerUpdate] | None = None,
    only: Sequence[int] | None = None,
    on_layer: Callable[[int], None] | None = None,
) -> dict[int, LayerUpdate]:
    """The update of each edited layer for targets `z` [n, d_model]; None: residuals of 0, to be searched for.

    `factor(layer)` gives the factored λC. `before[layer]` is D [d_out, d_in] float64, the live delta that is not in the
    model's weights; `history[layer]` [d_in, m] the keys of the live facts. Both are asked for layer by layer. A further
    pass adds to each layer's residual what the ridge still left of z − h, at the keys that the model then has.
    `anchors` say where h is read (`sinks.py`); None: at the plain prompts. `begun` are the updates of earlier passes,
    to go on from; `only` the facts (by number) whose residuals grow, None for all.
    The model is given back bit-identical.
    """
    updates = dict(begun or {})
    growing = torch.zeros(len(facts), dtype=torch.float64)
    growing[list(range(len(facts)) if only is None else only)] = 1.0
    base = {layer: adapter.weight(layer) for layer in layers}  # `masters` leaves these tensors as they are
    with masters(adapter, layers) as weights, torch.no_grad():
        _apply(weights, base, before, updates)
        for step in range(passes * len(layers)):
            index = step % len(layers)
            if not index:
                frontier = Frontier(adapter, facts, layers=layers, templates=templates, anchors=anchors)
            layer = layers[index]
            present = None if before is None else before[layer]
            solve = partial(
                solved,
                frontier.keys(layer),
                torch.zeros(adapter.hidden_size, len(facts)) if z is None else z.cpu().T - frontier.current(layer),
                share=len(layers) - index,
                factor=factor(layer),
                before=present,
                history=None if history is None else history[layer],
                earlier=updates[layer].residual if layer in updates else None,
                growing=growing,
            )
            update = computed_on(solve_device(base[layer].device), solve)
            updates[layer] = update
            weights[layer].copy_(_sum(base[layer], update.delta if present is None else present + update.delta))
            if on_layer is not None:
                on_layer(step + 1)
    return updates


def solved(
    keys: Tensor,
    missing: Tensor,
    *,
    share: int,
    factor: Factor | BlockFactor,
    before: Tensor | None = None,
    history: Tensor | None = None,
    earlier: Tensor | None = None,
    growing: Tensor | None = None,
    device: torch.device = CPU,
) -> LayerUpdate:
    """One layer's update, computed on `device` and given back on the CPU, wherever the arguments lie.

    `keys` K [d_in, n] are those of the model, `missing` is z − h [d_model, n]. This layer takes one
    part in `share` of it, on top of the residual of an `earlier` pass, for the facts whose `growing` [n] is 1, not 0.
    `before` and `history` as for `insert`, of this layer.
    """
    keys = keys.to(device).double()
    residual = missing.to(device).double() / share
    if earlier is not None:
        residual = earlier.to(residual) + (residual if growing is None else residual * growing.to(residual))
    targets = residual
    if before is not None:
        past = before.to(keys) @ keys
        # what is stored is float32: make the residual the one that the stored targets mean
        targets = (past + residual).float().double()
        residual = targets - past
    adjusted = adjusted_keys(factor.to(device), keys, history=None if history is None else history.to(device))
    return LayerUpdate(keys.cpu(), residual.cpu(), adjusted.cpu(), targets.cpu())


def reached(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    updates: Mapping[int, LayerUpdate],
    *,
    before: Mapping[int, Tensor] | None,
    anchors: Sequence[Template] | None,
) -> Tensor:
    """h [n, d_model] float32 behind the last layer of `updates`, at the anchors, with the updates in the weights."""
    layers = sorted(updates)
    base = {layer: adapter.weight(layer) for layer in layers}
    with masters(adapter, layers) as weights, torch.no_grad():
        _apply(weights, base, before, updates)
        return Frontier(adapter, facts, layers=layers[-1:], templates=[], anchors=anchors).current(layers[-1]).T


def _apply(
    weights: Mapping[int, Tensor],
    base: Mapping[int, Tensor],
    before: Mapping[int, Tensor] | None,
    updates: Mapping[int, LayerUpdate],
) -> None:
    """Write W + D + Δ into `weights`, the model's own for now, where there is a D `before` or an update."""
    for layer, weight in weights.items():
        parts = [] if before is None else [before[layer]]
        parts += [updates[layer].delta] if layer in updates else []
        if parts:
            weight.copy_(_sum(base[layer], sum(parts[1:], parts[0])))


def with_residual(update: LayerUpdate, residual: Tensor) -> LayerUpdate:
    """The update with another R [d_out, n], the nearest to it that the stored targets can say."""
    past = update.targets - update.residual
    targets = (past + residual).float().double()
    return replace(update, residual=targets - past, targets=targets)


def _sum(base: Tensor, delta: Tensor) -> Tensor:
    """W + Δ in float64, near the weight: one layer's at a time, for each is twice the size of a float32 weight.

    Δ is [d_out, d_in], where W may be [d_out, E, d_in / E].
    """
    device = float64_device(base.device)
    return base.to(device).double() + delta.to(device).view(base.shape)
