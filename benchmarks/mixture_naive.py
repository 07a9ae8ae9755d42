"""What an editor does that takes the expert with the largest gate for the layer's MLP and leaves the others alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.mixture_keys import reached, subject_end
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import search_targets
from memit_vc.numerics.edit.solve import adjusted_keys
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.statistics.factors import Factor, factorise
from memit_vc.objects import Fact
from memit_vc.porcelain.editing.models import LoadedModel
from memit_vc.porcelain.editing.remembered import context_templates

__all__ = ["edit_naively"]


def edit_naively(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    values: MEMITHyperParams,
    texts: Sequence[str],
    *,
    commits: int,
    gated: bool,
) -> Any:
    """A copy of the model with the facts edited in batches.

    Each fact goes into its top expert: with the key k and the second moment over that expert's own tokens, or, if
    `gated`, with g·k as the full method has it, over all tokens. λ is taken in proportion to one expert's width.
    """
    templates = parse_templates(context_templates(loaded, values))
    model = copy.deepcopy(loaded.adapter.model)
    adapter = ModelAdapter.of(model, loaded.adapter.tokenizer, architecture=loaded.adapter.architecture)
    weight = values.mom2_update_weight / adapter.parameter(values.layers[0]).shape[0]
    factors = _factors(adapter, values.layers, texts, weight, gated=gated)
    size = -(-len(facts) // commits)
    for start in range(0, len(facts), size):
        batch = facts[start : start + size]
        z = search_targets(adapter, batch, hparams=values, templates=templates).z
        for index, layer in enumerate(values.layers):
            _insert(adapter, batch, z, layer, values.layers, factors[layer], index=index, gated=gated)
    return model


@torch.no_grad()
def _insert(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    z: Tensor,
    layer: int,
    layers: Sequence[int],
    factors: Sequence[Factor],
    *,
    index: int,
    gated: bool,
) -> None:
    """One layer's update, into the model."""
    by_expert: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for fact, wanted in zip(facts, z, strict=True):
        ids, at = subject_end(adapter, fact)
        found, now = reached(adapter, [layer, layers[-1]], ids)
        gates, keys = found[layer].gates[at], found[layer].keys[at]
        top = int(gates.argmax())
        residual = (wanted.double() - now[at]) / (len(layers) - index)
        by_expert.setdefault(top, []).append((keys[top] * (gates[top] if gated else 1.0), residual))
    for expert, pairs in by_expert.items():
        keys, residuals = (torch.stack(side, dim=1) for side in zip(*pairs, strict=True))
        delta = residuals @ adjusted_keys(factors[expert], keys).T
        adapter.weight(layer)[:, expert] += delta.float()


@torch.no_grad()
def _factors(
    adapter: ModelAdapter, layers: Sequence[int], texts: Sequence[str], weight: float, *, gated: bool
) -> dict[int, list[Factor]]:
    """λC of each expert of each layer."""
    sums: dict[int, Tensor] = {}
    counts: dict[int, Tensor] = {}
    for text in texts:
        found, _ = reached(adapter, layers, adapter.tokenizer(text)["input_ids"])
        for layer, each in found.items():
            keys = each.keys * each.gates[..., None] if gated else each.keys
            tokens = torch.full((keys.shape[1],), float(len(keys))) if gated else (each.gates > 0).sum(0)
            sums[layer] = sums.get(layer, torch.zeros(())) + torch.einsum("tei,tej->eij", keys, keys)
            counts[layer] = counts.get(layer, torch.zeros(())) + tokens
    return {
        layer: [
            factorise(total / max(1.0, float(n)), weight) for total, n in zip(sums[layer], counts[layer], strict=True)
        ]
        for layer in layers
    }
