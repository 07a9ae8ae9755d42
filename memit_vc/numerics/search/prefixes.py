"""Keys and values of the tokens before each row's pivot: computed once, since no change at the pivot reaches them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from memit_vc.numerics.forward.lines import Lines
from memit_vc.numerics.forward.replay import cache_argument
from memit_vc.numerics.forward.tokens import TokenRow
from memit_vc.numerics.forward.trees import Laid, grouped, laid_out
from memit_vc.numerics.model.adapter import ModelAdapter


class _FrozenLayer(DynamicLayer):  # type: ignore[misc]  # untyped in transformers
    """Keys and values of prefixes that every call sees and no call changes.

    They are put into lines at each call, from the store that all parts share: laid out, those of every part would take
    several times the memory.
    """

    def __init__(self, kept: tuple[Tensor, Tensor] | None, index: Tensor) -> None:
        """`kept` keys and values, each [heads, tokens, width of a head]; `index` [lines, width] of their tokens."""
        super().__init__()
        self._width = index.shape[1]
        if kept is not None and self._width:
            self._kept, self._index = kept, index.to(kept[0].device)
            self.dtype, self.device, self.is_initialized = kept[0].dtype, kept[0].device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Prefix and new states joined, [lines, heads, tokens, width of a head]; the new ones are not kept."""
        del args, kwargs
        if not self.is_initialized:
            return key_states, value_states
        keys, values = self._kept
        return self._behind(keys, key_states), self._behind(values, value_states)

    def _behind(self, kept: Tensor, new: Tensor) -> Tensor:
        return torch.cat([kept[:, self._index].transpose(0, 1), new], dim=-2)

    def get_seq_length(self) -> int:
        """Tokens of a line's prefixes."""
        return self._width if self.is_initialized else 0


class Prefixes:
    """What every block's attention keeps of some rows' prefixes."""

    def __init__(self, adapter: ModelAdapter, rows: Sequence[TokenRow], *, max_tokens: int) -> None:
        """Forwards without gradients of about `max_tokens` tokens each."""
        self._adapter = adapter
        self._tokens: list[range | list[int]] = [range(0)] * len(rows)
        """Where each row's tokens lie in what is kept; rows that begin alike share tokens."""
        kept: list[list[tuple[Tensor, Tensor] | None]] = []
        taken = 0
        numbers = [i for i, row in enumerate(rows) if row.pivot]
        prefixes = [rows[i].ids[: rows[i].pivot] for i in numbers]
        for group in grouped(adapter, prefixes, max_tokens=max_tokens):
            laid = laid_out(adapter, [prefixes[i] for i in group])
            tokens = dict.fromkeys((line, column) for line, columns in laid.places for column in columns)
            number = {place: taken + index for index, place in enumerate(tokens)}
            for i, (line, columns) in zip(group, laid.places, strict=True):
                self._tokens[numbers[i]] = [number[line, column] for column in columns]
            kept.append(self._run(laid, list(tokens)))
            taken += len(tokens)
        self._layers = [_joined([part[layer] for part in kept]) for layer in range(adapter.n_layers)]

    def _run(self, laid: Laid, tokens: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor] | None]:
        """Keys and values [heads, tokens, width of a head] of each layer; None if it keeps none."""
        adapter = self._adapter
        filled = DynamicCache()
        with torch.no_grad():
            adapter.backbone(**laid.inputs, **{cache_argument(adapter.backbone): filled}, use_cache=True)
        width = laid.inputs["input_ids"].shape[1]
        index = torch.tensor([line * width + column for line, column in tokens])
        layers = [layer if layer.is_initialized else None for layer in filled.layers]
        layers += [None] * (adapter.n_layers - len(layers))
        return [None if layer is None else (_flat(layer.keys, index), _flat(layer.values, index)) for layer in layers]

    def cache(self, rows: Sequence[int], lines: Lines) -> DynamicCache:
        """A cache whose layers join the prefixes of `rows`, as `lines` has them, with the states they are given."""
        index = lines.fill([self._tokens[i] for i in rows])
        cache = DynamicCache()
        cache.layers.extend(_FrozenLayer(kept, index) for kept in self._layers)
        return cache


def _flat(states: Tensor, index: Tensor) -> Tensor:
    """[lines, heads, width, d] at some tokens: [heads, tokens, d]."""
    return states.transpose(0, 1).flatten(1, 2).index_select(1, index.to(states.device))


def _joined(parts: Sequence[tuple[Tensor, Tensor] | None]) -> tuple[Tensor, Tensor] | None:
    found = [part for part in parts if part is not None]
    if not found:
        return None
    keys, values = zip(*found, strict=True)
    return torch.cat(keys, dim=1), torch.cat(values, dim=1)
