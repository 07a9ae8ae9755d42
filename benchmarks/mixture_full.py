"""The blocks of C against the whole of it, on a model that is small enough to hold E[κ κᵀ]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.mixture_keys import reached
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import search_targets
from memit_vc.numerics.edit.insert import LayerUpdate, insert
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.masters import swapped
from memit_vc.numerics.statistics.factors import factorise, factorise_experts
from memit_vc.objects import Fact
from memit_vc.porcelain.editing.models import LoadedModel
from memit_vc.porcelain.editing.remembered import context_templates

__all__ = ["against_full"]


def against_full(
    loaded: LoadedModel, facts: Sequence[Fact], values: MEMITHyperParams, texts: Sequence[str]
) -> Iterator[tuple[str, Any, dict[str, float]]]:
    """The model with all facts in one batch, by the whole C and by its blocks, from the same z and the same texts.

    Each with figures: how far its Δ is from the one by the whole C, and by how much it moves the layer's output on the
    texts, √(tr ΔCΔᵀ / tr WCWᵀ) by the whole C; means over the layers.
    """
    adapter, layers, weight = loaded.adapter, values.layers, values.mom2_update_weight
    templates = parse_templates(context_templates(loaded, values))
    moments = _moments(adapter, layers, texts)
    z = search_targets(adapter, facts, hparams=values, templates=templates).z
    whole: dict[int, LayerUpdate] = {}
    for name in ("the whole of C", "blocks of C"):
        count = adapter.parameter(layers[0]).shape[0]
        updates = insert(
            adapter,
            facts,
            z,
            layers=layers,
            templates=templates,
            factor=lambda layer, name=name, count=count: (  # type: ignore[misc]
                factorise(moments[layer], weight)
                if name == "the whole of C"
                else factorise_experts(_blocks(moments[layer], count), weight)
            ),
        )
        whole = whole or updates
        figures = {
            "distance to the Δ of the whole C": _mean(
                float((update.delta - whole[n].delta).norm() / whole[n].delta.norm()) for n, update in updates.items()
            ),
            "relative change of the output in text": _mean(
                _moved(adapter, n, update.delta, moments[n]) for n, update in updates.items()
            ),
            "leverage": _mean(float(update.leverage.mean()) for update in updates.values()),
            "share of C's norm outside its blocks": _mean(_off(moments[n], count) for n in layers),
        }
        with swapped(adapter, {n: _with(adapter, n, update.delta) for n, update in updates.items()}):
            yield name, adapter.model, figures


@torch.no_grad()
def _moments(adapter: ModelAdapter, layers: Sequence[int], texts: Sequence[str]) -> dict[int, Tensor]:
    """E[κ κᵀ] of each layer."""
    sums, count = dict[int, Tensor](), 0
    for text in texts:
        found, out = reached(adapter, layers, adapter.tokenizer(text)["input_ids"])
        count += len(out)
        for layer, each in found.items():
            sums[layer] = sums.get(layer, torch.zeros(())) + each.stacked.T @ each.stacked
    return {layer: total / count for layer, total in sums.items()}


def _blocks(moment: Tensor, count: int) -> Tensor:
    """[E, d_in, d_in]."""
    size = len(moment) // count
    return moment.view(count, size, count, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def _off(moment: Tensor, count: int) -> float:
    """The share of C's norm that is off its blocks."""
    rest = moment - torch.block_diag(*_blocks(moment, count))
    return float(rest.norm() / moment.norm())


def _moved(adapter: ModelAdapter, layer: int, delta: Tensor, moment: Tensor) -> float:
    weight = adapter.weight(layer).double().flatten(1)
    return float(((delta @ moment * delta).sum() / (weight @ moment * weight).sum()).sqrt())


def _with(adapter: ModelAdapter, layer: int, delta: Tensor) -> Tensor:
    """The experts of a layer with Δ, as the model holds them."""
    view = adapter.weight(layer)
    return (view.double() + delta.view(view.shape)).to(view.dtype).permute(1, 0, 2).contiguous()


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
