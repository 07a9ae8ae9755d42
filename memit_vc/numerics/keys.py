"""Keys and current z of a batch, from one set of recorded forwards that is moved up block by block.

Meng et al. 2023 (arXiv:2210.07229), equation 19: the key of a fact at layer l is the input of that layer's down
projection at the subject's last token, averaged over the context templates. The blocks below the first edited layer run
once; between two edited layers only the blocks in between run; nothing above the last edited block runs, and no logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memit_vc.numerics.adapter import ModelAdapter
from memit_vc.numerics.replay import Recording, evaluating, record, replay, watching
from memit_vc.numerics.rows import buckets, pad, prompt_rows
from memit_vc.numerics.tokens import Template, TokenRow
from memit_vc.objects import Fact

__all__ = ["Frontier"]


@dataclass
class _Group:
    """Rows that run together, and how far up the model they have been carried."""

    indices: list[int]
    pivots: Tensor
    recording: Recording
    hidden: Tensor
    """Input of block `at`, [rows, tokens, d_model]."""
    at: int


class Frontier:
    """The prompts of a batch in every template, carried up the model as its layers are edited one after the other.

    `templates` are groups: a key is the mean over groups of the mean within a group (EasyEdit's nested list; the first
    group is the plain prompt). Row 0 of each fact is the plain prompt, where the current z is read.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        facts: Sequence[Fact],
        *,
        layers: Sequence[int],
        templates: Sequence[Sequence[Template]],
        max_tokens: int = 4096,
    ) -> None:
        self._adapter, self._layers, self._facts = adapter, list(layers), len(facts)
        rows: list[TokenRow] = []
        weights: list[tuple[int, int, float]] = []  # fact, row, share of the key
        seen: dict[tuple[int, Template], int] = {}

        def add(fact_rows: Sequence[TokenRow], template: Template, share: float) -> None:
            for fact, row in enumerate(fact_rows):
                index = seen.setdefault((fact, template), len(rows))
                if index == len(rows):
                    rows.append(row)
                if share:
                    weights.append((fact, index, share))

        plain = Template("")
        add(prompt_rows(adapter.tokenizer, facts, plain), plain, 0.0)
        for group in templates:
            for template in group:
                share = 1.0 / (len(templates) * len(group))
                add(prompt_rows(adapter.tokenizer, facts, template), template, share)
        self._weights = weights
        self._n_rows = len(rows)
        lengths = [len(row.ids) for row in rows]
        with evaluating(adapter.model), torch.no_grad():
            self._groups = []
            for part in (range(len(facts)), range(len(facts), len(rows))):  # the plain prompts go further up: apart
                for bucket in buckets([lengths[i] for i in part], max_tokens=max_tokens):
                    indices = [part[i] for i in bucket]
                    self._groups.append(self._start([rows[i] for i in indices], indices))

    def _start(self, rows: Sequence[TokenRow], indices: list[int]) -> _Group:
        first, last = self._layers[0], self._layers[-1]
        ids, mask = pad([row.ids for row in rows])
        inputs = {
            "input_ids": ids.to(self._adapter.device),
            "attention_mask": mask.to(self._adapter.device),
            "use_cache": False,
        }
        recording = record(self._adapter, inputs, keep={first - 1}, calls=range(first, last + 1))
        return _Group(
            indices, torch.tensor([row.pivot for row in rows]), recording, recording.outputs[first - 1], first
        )

    def keys(self, layer: int) -> Tensor:
        """K [d_in, n] float32 at `layer`, with the weights as they now stand in the model."""
        _, d_in = self._adapter.dimensions(layer)
        read = self._read(layer, layer, what="input", width=d_in)
        keys = torch.zeros(self._facts, d_in, dtype=torch.float32, device=read.device)
        for fact, row, share in self._weights:
            keys[fact] += share * read[row]
        return keys.T.contiguous()

    def current(self, layer: int) -> Tensor:
        """Output [d_model, n] float32 of the last edited block at the plain prompts, from `layer` upwards."""
        read = self._read(layer, self._layers[-1], what="output", width=self._adapter.hidden_size)
        return read[: self._facts].T.contiguous()

    def _read(self, layer: int, stop: int, *, what: str, width: int) -> Tensor:
        device = next(self._adapter.blocks[stop].parameters()).device
        read = torch.zeros(self._n_rows, width, dtype=torch.float32, device=device)
        with evaluating(self._adapter.model), torch.no_grad():
            for group in self._groups:
                if what == "output" and min(group.indices) >= self._facts:
                    continue
                self._advance(group, layer)
                captured: list[Tensor] = []

                def on_call(_: Any, args: tuple[Any, ...], __: dict[str, Any], into: list[Tensor] = captured) -> None:
                    into.append(args[0])

                with watching({0: self._adapter.projection(stop)}, on_call=on_call):
                    out = replay(self._adapter, group.recording, group.hidden, blocks=range(layer, stop + 1))
                source = captured[0] if what == "input" else out
                if source.dim() == 2:  # OPT flattens rows and tokens before its feed-forward part
                    source = source.view(*out.shape[:2], -1)
                picked = source[torch.arange(len(group.indices)), group.pivots.to(source.device)]
                read[group.indices] = picked.float().to(device)
        return read

    def _advance(self, group: _Group, layer: int) -> None:
        """Carry the rows up to the input of block `layer`, through blocks whose weights are final by now."""
        if group.at < layer:
            group.hidden = replay(self._adapter, group.recording, group.hidden, blocks=range(group.at, layer))
            group.at = layer
