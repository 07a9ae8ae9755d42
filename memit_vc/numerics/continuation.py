"""The part of the forward that a change of the hidden state at one token can influence.

`Suffix` runs only the blocks above the edited one on the tokens from the pivot on; keys and values of the tokens before
the pivot are computed once. `Whole` runs the whole model with a hook: the plain path, for a family or a length where
the short one does not hold. Both give the same numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from memit_vc.numerics.adapter import ModelAdapter
from memit_vc.numerics.architecture import ARCHITECTURES
from memit_vc.numerics.replay import Recording, cache_argument, frozen_cache, hidden_of, record, replay, watching
from memit_vc.numerics.rows import pad
from memit_vc.numerics.tokens import TokenRow

__all__ = ["Continuation", "Suffix", "Whole", "continuation"]


class Continuation(Protocol):
    """Rows of one bucket, ready to be run with a change δ at each row's pivot."""

    start: Tensor
    """Unedited output of the edited block at the pivot, [rows, d_model] float32."""

    def run(self, delta: Tensor, *, loss_block: int) -> tuple[Tensor, Tensor]:
        """Outputs of block `loss_block` and of the last block for δ [rows, d_model], each [rows, width, d_model]."""
        ...

    def column(self, row: int, position: int) -> int:
        """Index along the width axis of token `position` of row `row`."""
        ...


class Suffix:
    """Blocks above `layer`, tokens from the pivot on."""

    def __init__(self, adapter: ModelAdapter, rows: Sequence[TokenRow], *, layer: int) -> None:
        self._adapter, self._rows, self._layer = adapter, rows, layer
        device = adapter.device
        ids, mask = pad([row.ids[row.pivot :] for row in rows])
        prefix, prefix_mask = pad([row.ids[: row.pivot] for row in rows])
        filled, cached = None, cache_argument(adapter.backbone)
        if prefix.shape[1]:
            filled = DynamicCache()
            with torch.no_grad():
                # padding counts as text here: nothing causal looks at it, and a row of padding only has no softmax
                visible = torch.ones_like(prefix).to(device)
                prefix_inputs = {"input_ids": prefix.to(device), "attention_mask": visible, cached: filled}
                adapter.backbone(**prefix_inputs, use_cache=True)
        inputs: dict[str, Any] = {
            "input_ids": ids.to(device),
            "attention_mask": torch.cat([prefix_mask, mask], dim=1).to(device),
            cached: frozen_cache(filled, adapter.n_layers),
            "use_cache": True,
        }
        if _takes_positions(adapter):
            pivots = torch.tensor([row.pivot for row in rows])[:, None]
            inputs["position_ids"] = (pivots + torch.arange(ids.shape[1])).to(device)
        self._recording: Recording = record(adapter, inputs, keep={layer}, calls=range(layer + 1, adapter.n_layers))
        self._hidden = self._recording.outputs[layer]
        self.start = self._hidden[:, 0].float()

    def run(self, delta: Tensor, *, loss_block: int) -> tuple[Tensor, Tensor]:
        first = self._hidden[:, :1] + delta.to(self._hidden)[:, None]
        hidden = torch.cat([first, self._hidden[:, 1:]], dim=1)
        loss = replay(self._adapter, self._recording, hidden, blocks=range(self._layer + 1, loss_block + 1))
        last = replay(self._adapter, self._recording, loss, blocks=range(loss_block + 1, self._adapter.n_layers))
        return loss, last

    def column(self, row: int, position: int) -> int:
        return position - self._rows[row].pivot


class Whole:
    """The whole model on whole rows, with δ added by a hook."""

    def __init__(self, adapter: ModelAdapter, rows: Sequence[TokenRow], *, layer: int) -> None:
        self._adapter, self._layer = adapter, layer
        ids, mask = pad([row.ids for row in rows])
        self._inputs = {
            "input_ids": ids.to(adapter.device),
            "attention_mask": mask.to(adapter.device),
            "use_cache": False,
        }
        self._pivots = torch.tensor([row.pivot for row in rows])
        hidden = record(adapter, self._inputs, keep={layer}, calls=range(0)).outputs[layer]
        self.start = hidden[torch.arange(len(rows)), self._pivots.to(hidden.device)].float()

    def run(self, delta: Tensor, *, loss_block: int) -> tuple[Tensor, Tensor]:
        rows = torch.arange(delta.shape[0])
        outputs: dict[int, Tensor] = {}

        def on_output(index: int, output: Any) -> Any:
            hidden = hidden_of(output)
            if index == self._layer:
                change = torch.zeros_like(hidden).index_put(
                    (rows.to(hidden.device), self._pivots.to(hidden.device)), delta.to(hidden)
                )
                hidden = hidden + change
            outputs[index] = hidden
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        last = self._adapter.n_layers - 1
        blocks = {i: self._adapter.blocks[i] for i in {self._layer, loss_block, last}}
        with watching(blocks, on_output=on_output):
            self._adapter.backbone(**self._inputs)
        return outputs[loss_block], outputs[last]

    def column(self, row: int, position: int) -> int:
        del row
        return position


def continuation(adapter: ModelAdapter, rows: Sequence[TokenRow], *, layer: int, plain: bool = False) -> Continuation:
    """The short path where it holds for these rows, else the plain one.

    It is known to hold for the families of the table; what inspection found may use positions in a way of its own (an
    alibi by absolute column, say), so it takes the plain path.
    """
    longest = max(row.pivot for row in rows) + max(len(row.ids) - row.pivot for row in rows)
    window = _window(adapter)
    known = adapter.model.config.model_type in ARCHITECTURES
    if plain or not known or (window is not None and longest > window):
        return Whole(adapter, rows, layer=layer)
    return Suffix(adapter, rows, layer=layer)


def _takes_positions(adapter: ModelAdapter) -> bool:
    return "position_ids" in inspect.signature(type(adapter.backbone).forward).parameters


def _window(adapter: ModelAdapter) -> int | None:
    """The shortest sliding window or table of positions: beyond it, padding between prefix and suffix would count."""
    names = ("sliding_window", "window_size", "attention_window", "max_position_embeddings", "n_positions")
    limits = [getattr(adapter.model.config, name, None) for name in names]
    return min((n for n in limits if isinstance(n, int) and n > 0), default=None)
