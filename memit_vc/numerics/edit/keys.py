"""Keys and current z of a batch, from one set of recorded forwards that is moved up block by block.

Meng et al. 2023 (arXiv:2210.07229), equation 19: the key of a fact at layer l is the input of that layer's down
projection at the subject's last token, averaged over the context templates. The blocks below the first edited layer run
once; between two edited layers only the blocks in between run; nothing above the last edited block runs, and no logits.
Hidden states wait in main memory, no more than `_HELD` bytes of them: the rest of a large batch starts again each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from memit_vc.numerics.forward.replay import Recording, evaluating, record, replay, watching
from memit_vc.numerics.forward.rows import prompt_rows
from memit_vc.numerics.forward.sinks import PLAIN, contexts
from memit_vc.numerics.forward.tokens import Template, TokenRow
from memit_vc.numerics.forward.trees import grouped, laid_out
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.experts import StackedKeys, expert_by_expert
from memit_vc.numerics.model.memory import halving
from memit_vc.objects import Fact

_HELD = 2 << 30
"""Bytes of hidden states that are kept from layer to layer: about 2,000 facts of an 8B model in bfloat16."""


@dataclass
class _Moved:
    """How far up the model the rows of a group have been carried: `hidden` is the input of block `at`, on the CPU."""

    recording: Recording
    places: tuple[Tensor, Tensor]
    """Line and column of each row's pivot."""
    hidden: Tensor
    at: int


@dataclass
class _Group:
    """Rows that run together, by number; `moved` where it is kept."""

    rows: list[int]
    moved: _Moved | None = None


class Frontier:
    """The prompts of a batch in every template, carried up the model as its layers are edited one after the other.

    `templates` are groups: a key is the mean over groups of the mean within a group (EasyEdit's nested list; the first
    group is the plain prompt). Row 0 of each fact is the plain prompt, or another anchor (`sinks.py`); there the
    current z is read. What is read lies on the CPU, wherever the layers lie. `max_tokens` of a forward are halved if
    memory runs out.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        facts: Sequence[Fact],
        *,
        layers: Sequence[int],
        templates: Sequence[Sequence[Template]],
        anchors: Sequence[Template] | None = None,
        max_tokens: int = 4096,
    ) -> None:
        self._adapter, self._layers, self._facts, self._max_tokens = adapter, list(layers), len(facts), max_tokens
        self._rows: list[TokenRow] = []
        owners: list[int] = []
        shares: list[float] = []
        seen: dict[tuple[int, Template], int] = {}

        def add(fact: int, row: TokenRow, template: Template, share: float) -> None:
            index = seen.setdefault((fact, template), len(self._rows))
            if index == len(self._rows):
                self._rows.append(row)
                owners.append(fact)
                shares.append(0.0)
            shares[index] += share

        first = list(anchors or [PLAIN] * len(facts))
        own = [contexts(templates, anchor) for anchor in first]
        rows = {
            template: prompt_rows(adapter.tokenizer, facts, template)
            for template in dict.fromkeys([*first, *(template for group in templates for template in group)])
        }
        for fact, anchor in enumerate(first):
            add(fact, rows[anchor][fact], anchor, 0.0)
        for template in rows:
            for fact, groups in enumerate(own):
                for group in groups:
                    for _ in range(group.count(template)):
                        add(fact, rows[template][fact], template, 1.0 / (len(groups) * len(group)))
        self._owners = torch.tensor(owners)
        self._shares = torch.tensor(shares, dtype=torch.float64)
        self._groups: list[_Group] = []

    def keys(self, layer: int) -> Tensor:
        """K [d_in, n] float32 at `layer`, with the weights as they now stand in the model."""
        _, d_in = self._adapter.dimensions(layer)
        return self._mean(layer, layer, shares=self._shares, what="input", width=d_in)

    def current(self, layer: int) -> Tensor:
        """Output [d_model, n] float32 of the last edited block at the anchors, from `layer` upwards."""
        plain = torch.zeros(len(self._rows), dtype=torch.float64)
        plain[: self._facts] = 1.0
        return self._mean(layer, self._layers[-1], shares=plain, what="output", width=self._adapter.hidden_size)

    def _mean(self, layer: int, stop: int, *, shares: Tensor, what: str, width: int) -> Tensor:
        """Σ share · what block `stop` gets or gives at the pivots of a fact's rows, [width, n]; in float64, so that the
        order of the rows does not show.
        """

        def read(max_tokens: int) -> Tensor:
            if max_tokens != self._max_tokens or not self._groups:
                self._max_tokens, self._groups = max_tokens, []
                self._groups = self._grouped(max_tokens)
            total = torch.zeros(self._facts, width, dtype=torch.float64)
            for group in self._groups:
                share = shares[group.rows]
                if bool(share.any()):
                    values = self._read(group, layer, stop, what)
                    total.index_add_(0, self._owners[group.rows], values * share[:, None])
            return total

        with evaluating(self._adapter.model), torch.no_grad():
            return halving(self._max_tokens, read).float().T.contiguous()

    def _grouped(self, max_tokens: int) -> list[_Group]:
        parts = (range(self._facts), range(self._facts, len(self._rows)))  # the plain prompts go further up: apart
        return [
            _Group([part[i] for i in group])
            for part in parts
            for group in grouped(self._adapter, [self._rows[i].ids for i in part], max_tokens=max_tokens)
        ]

    def _read(self, group: _Group, layer: int, stop: int, what: str) -> Tensor:
        """Input of the projection or output of block `stop` at the pivots, float64 [rows, width]."""
        moved = self._carried(group, layer)
        with ExitStack() as stack:
            source = stack.enter_context(self._watched(stop, moved)) if what == "input" else None
            out = replay(self._adapter, moved.recording, moved.hidden, blocks=range(layer, stop + 1))
        if isinstance(source, StackedKeys):
            return source.rows
        found = out if source is None else source[0]
        if found.dim() == 2:  # OPT flattens rows and tokens before its feed-forward part
            found = found.view(*out.shape[:2], -1)
        lines, columns = (place.to(found.device) for place in moved.places)
        return found[lines, columns].float().cpu().double()

    @contextmanager
    def _watched(self, layer: int, moved: _Moved) -> Iterator[StackedKeys | list[Tensor]]:
        """The stacked keys at the pivots, or the input of the layer's one projection everywhere."""
        experts = self._adapter.experts(layer)
        if experts is None:
            captured: list[Tensor] = []
            module = self._adapter.projection(layer)
            with watching({0: module}, on_call=lambda _, args, __: captured.append(args[0])):
                yield captured
            return
        lines, columns = moved.places
        keys = StackedKeys(lines * moved.hidden.shape[1] + columns, experts.count, experts.stack.shape[2])
        with expert_by_expert(experts, keys):
            yield keys

    def _carried(self, group: _Group, layer: int) -> _Moved:
        """The rows at the input of block `layer`, through blocks whose weights are final by now."""
        moved = group.moved or self._start([self._rows[i] for i in group.rows])
        if moved.at < layer:
            hidden = replay(self._adapter, moved.recording, moved.hidden, blocks=range(moved.at, layer))
            moved = _Moved(moved.recording, moved.places, hidden.cpu(), layer)
        held = sum(_size(other.moved) for other in self._groups if other is not group)
        group.moved = moved if held + _size(moved) <= _HELD else None
        return moved

    def _start(self, rows: Sequence[TokenRow]) -> _Moved:
        first, last = self._layers[0], self._layers[-1]
        laid = laid_out(self._adapter, [row.ids for row in rows])
        inputs = {**laid.inputs, "use_cache": False}
        recording = record(self._adapter, inputs, keep={first - 1}, calls=range(first, last + 1))
        hidden = recording.outputs[first - 1].cpu()
        return _Moved(Recording(recording.calls, {}), laid.at([row.pivot for row in rows]), hidden, first)


def _size(moved: _Moved | None) -> int:
    return 0 if moved is None else moved.hidden.numel() * moved.hidden.element_size()
