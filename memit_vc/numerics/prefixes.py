"""Keys and values of the tokens before each row's pivot: computed once, since no change at the pivot reaches them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from memit_vc.numerics.adapter import ModelAdapter
from memit_vc.numerics.lines import Lines
from memit_vc.numerics.replay import FrozenLayer, cache_argument
from memit_vc.numerics.tokens import TokenRow

__all__ = ["Prefixes", "additive"]


class Prefixes:
    """What every block's attention keeps of some rows' prefixes. `packed`: whether rows may share a line."""

    def __init__(
        self, adapter: ModelAdapter, rows: Sequence[TokenRow], *, packed: bool, max_tokens: int, limit: int | None
    ) -> None:
        """One forward without gradients for about `max_tokens` tokens at a time, in lines of at most `limit`."""
        self._adapter, self._packed, self._limit = adapter, packed, limit
        self._lengths = [row.pivot for row in rows]
        self._starts = [0] * len(rows)
        kept: list[list[tuple[Tensor, Tensor] | None]] = []
        order = sorted((i for i, row in enumerate(rows) if row.pivot), key=lambda i: rows[i].pivot)
        taken = 0
        while order:
            part: list[int] = []
            while order and (not part or (len(part) + 1) * rows[order[0]].pivot <= max_tokens):
                part.append(order.pop(0))
            kept.append(self._run([rows[i] for i in part]))
            for i in part:
                self._starts[i] = taken
                taken += rows[i].pivot
        self._layers = [_joined([part[layer] for part in kept]) for layer in range(adapter.n_layers)]

    def _run(self, rows: Sequence[TokenRow]) -> list[tuple[Tensor, Tensor] | None]:
        """Keys and values [heads, tokens of all prefixes, width of a head] of each layer; None where it keeps none."""
        adapter = self._adapter
        lengths = [row.pivot for row in rows]
        lines = Lines.packed(lengths, limit=self._limit) if self._packed else Lines.single(lengths)
        inputs: dict[str, Any] = {"input_ids": lines.fill([row.ids[: row.pivot] for row in rows]).to(adapter.device)}
        if self._packed:
            owners = lines.owners
            visible = (owners[:, :, None] == owners[:, None, :]) & torch.ones(lines.width, lines.width).tril().bool()
            inputs["attention_mask"] = additive(visible, adapter)
            inputs["position_ids"] = lines.fill([range(length) for length in lengths]).to(adapter.device)
        else:
            # padding counts as text here: nothing causal looks at it, and a row of padding only has no softmax
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        filled = DynamicCache()
        with torch.no_grad():
            adapter.backbone(**inputs, **{cache_argument(adapter.backbone): filled}, use_cache=True)
        places = [lines.place(row, offset) for row, length in enumerate(lengths) for offset in range(length)]
        index = torch.tensor([line * lines.width + column for line, column in places])
        kept: list[tuple[Tensor, Tensor] | None] = []
        for number in range(adapter.n_layers):
            layer = filled.layers[number] if number < len(filled.layers) else None
            if layer is None or not layer.is_initialized:
                kept.append(None)
            else:
                kept.append((_flat(layer.keys, index), _flat(layer.values, index)))
        return kept

    def cache(self, rows: Sequence[int], lines: Lines) -> DynamicCache:
        """A cache that holds the prefixes of `rows` as `lines` has them, [lines, heads, width, width of a head]."""
        index = lines.fill([range(self._starts[i], self._starts[i] + self._lengths[i]) for i in rows])
        cache = DynamicCache()
        for kept in self._layers:
            layer = FrozenLayer()
            if kept is not None and lines.width:
                layer.keys, layer.values = (_laid_out(each, index) for each in kept)
                layer.dtype, layer.device, layer.is_initialized = layer.keys.dtype, layer.keys.device, True
            cache.layers.append(layer)
        return cache


def additive(visible: Tensor, adapter: ModelAdapter) -> Tensor:
    """A mask that every attention of transformers adds to its scores, of bool [lines, queries, keys]: 4-D, used as it
    is."""
    mask = torch.zeros(visible.shape, dtype=adapter.dtype)
    return mask.masked_fill_(~visible, torch.finfo(adapter.dtype).min)[:, None].to(adapter.device)


def _flat(states: Tensor, index: Tensor) -> Tensor:
    """[lines, heads, width, d] at some tokens: [heads, tokens, d]."""
    return states.transpose(0, 1).flatten(1, 2).index_select(1, index.to(states.device))


def _laid_out(states: Tensor, index: Tensor) -> Tensor:
    """[heads, tokens, d] at `index` [lines, width]: [lines, heads, width, d]."""
    return states[:, index.to(states.device)].transpose(0, 1).contiguous()


def _joined(parts: Sequence[tuple[Tensor, Tensor] | None]) -> tuple[Tensor, Tensor] | None:
    found = [part for part in parts if part is not None]
    if not found:
        return None
    keys, values = zip(*found, strict=True)
    return torch.cat(keys, dim=1), torch.cat(values, dim=1)
