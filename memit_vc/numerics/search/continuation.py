"""The part of the forward that a change of the hidden state at one token can influence.

`Suffix` runs only the blocks above the edited one on the tokens from the pivot on; keys and values of the tokens before
the pivot are computed once. `Whole` runs the whole model with a hook: the plain path, for a family or a length where
the short one does not hold. Both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from memit_vc.numerics.forward.lengths import check_tokens
from memit_vc.numerics.forward.lines import Lines
from memit_vc.numerics.forward.masks import additive, packs, takes_positions, window
from memit_vc.numerics.forward.replay import Recording, cache_argument, record, replay
from memit_vc.numerics.forward.rows import buckets, pad, portions
from memit_vc.numerics.forward.tokens import TokenRow
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.architecture import ARCHITECTURES
from memit_vc.numerics.search.prefixes import Prefixes


class Continuation(Protocol):
    """Some rows, ready to be run with a change δ at each row's pivot."""

    start: Tensor
    """Unedited output of the edited block at each pivot, [rows, d_model] float32; there after the first `run`."""

    def run(self, delta: Tensor, *, loss_block: int) -> tuple[Tensor, Tensor]:
        """Outputs of block `loss_block` and of the last block for δ [rows, d_model], each [lines, width, d_model]."""
        ...

    def place(self, row: int, position: int) -> tuple[int, int]:
        """(line, column) of token `position` of row `row`."""
        ...


class Continuations:
    """All rows of a search: what stays the same however they are put together is computed once."""

    def __init__(
        self, adapter: ModelAdapter, rows: Sequence[TokenRow], *, layer: int, plain: bool = False, through: bool = False
    ) -> None:
        """`plain` forces the whole model; `through`: gradients also flow into block `layer`, where it is run.

        The short path is known to hold for the families of the table; what inspection found may use positions in a way
        of its own (an alibi by absolute column, say), so it takes the plain one.
        """
        check_tokens(adapter, (row.ids for row in rows))
        self._adapter, self._rows, self._layer, self._through = adapter, rows, layer, through
        self._plain = plain or adapter.model.config.model_type not in ARCHITECTURES
        self._packed, self._limit = packs(adapter), window(adapter)
        self._prefixes: Prefixes | None = None
        self._numbers: dict[int, int] = {}

    def lay_out(self, rows: Sequence[int], *, max_tokens: int) -> list[tuple[list[int], Continuation]]:
        """The rows of these numbers in parts of at most `max_tokens` tokens each (a single row may have more)."""
        short = [] if self._plain else [i for i in rows if self._fits(len(self._rows[i].ids))]
        long = sorted(set(rows).difference(short))
        parts: list[tuple[list[int], Continuation]] = []
        for part in self._parts(short, max_tokens):
            lines = self._lines(part)
            if lines is None:
                long += part
            else:
                parts.append((part, self._suffix(part, *lines, max_tokens)))
        for group in buckets([len(self._rows[i].ids) for i in long], max_tokens=max_tokens):
            part = [long[i] for i in group]
            whole = Whole(self._adapter, [self._rows[i] for i in part], layer=self._layer, through=self._through)
            parts.append((part, whole))
        return parts

    def _fits(self, length: int) -> bool:
        return self._limit is None or length <= self._limit

    def _parts(self, rows: Sequence[int], max_tokens: int) -> list[list[int]]:
        lengths = [len(self._rows[i].ids) - self._rows[i].pivot for i in rows]
        groups = (portions if self._packed else buckets)(lengths, max_tokens=max_tokens)
        return [[rows[i] for i in group] for group in groups]

    def _lines(self, part: Sequence[int]) -> tuple[Lines, Lines] | None:
        """Where prefixes and suffixes lie; None if no line is short enough for the model's window or table."""
        pivots = [self._rows[i].pivot for i in part]
        lengths = [len(self._rows[i].ids) - self._rows[i].pivot for i in part]
        for lines in (*([Lines.packed(lengths, pivots)] if self._packed else []), Lines.single(lengths)):
            before = lines.behind(pivots)
            if self._fits(before.width + lines.width):
                return before, lines
        return None

    def _suffix(self, part: Sequence[int], before: Lines, lines: Lines, max_tokens: int) -> Suffix:
        if self._prefixes is None:
            kept = [i for i, row in enumerate(self._rows) if self._fits(len(row.ids))]
            self._numbers = {row: number for number, row in enumerate(kept)}
            rows = [self._rows[i] for i in kept]
            self._prefixes = Prefixes(self._adapter, rows, max_tokens=max_tokens)
        cache = self._prefixes.cache([self._numbers[i] for i in part], before)
        mask = _mask(before, lines, self._adapter, packed=self._packed)
        return Suffix(self._adapter, [self._rows[i] for i in part], lines, cache, mask, layer=self._layer)


class Suffix:
    """Blocks above `layer`, tokens from the pivot on, which lie in `lines`; `cache` and `mask` say what they see."""

    def __init__(
        self,
        adapter: ModelAdapter,
        rows: Sequence[TokenRow],
        lines: Lines,
        cache: Cache,
        mask: Tensor,
        *,
        layer: int,
    ) -> None:
        self._adapter, self._rows, self._lines, self._layer = adapter, rows, lines, layer
        self._inputs: dict[str, Any] = {
            "input_ids": lines.fill([row.ids[row.pivot :] for row in rows]).to(adapter.device),
            "attention_mask": mask,
            cache_argument(adapter.backbone): cache,
            "use_cache": True,
        }
        if takes_positions(adapter):
            positions = lines.fill([range(row.pivot, len(row.ids)) for row in rows])
            self._inputs["position_ids"] = positions.to(adapter.device)
        self._places = torch.tensor(lines.starts).T.to(_device(adapter, layer))
        self._recording: Recording | None = None
        """What the model passed to its blocks in the first run."""

    def run(self, delta: Tensor, *, loss_block: int) -> tuple[Tensor, Tensor]:
        last = self._adapter.n_layers - 1
        if self._recording is None:
            recording = record(
                self._adapter,
                self._inputs,
                keep={loss_block, last},
                calls=range(self._layer + 1, last + 1),
                change=(self._layer, lambda hidden: _added(hidden, self._places, delta)),
            )
            self._recording = Recording(recording.calls, {}, recording.unchanged)
            self.start = recording.before(self._places)
            return recording.outputs[loss_block], recording.outputs[last]
        hidden = _added(self._recording.unchanged, self._places, delta)
        loss = replay(self._adapter, self._recording, hidden, blocks=range(self._layer + 1, loss_block + 1))
        return loss, replay(self._adapter, self._recording, loss, blocks=range(loss_block + 1, last + 1))

    def place(self, row: int, position: int) -> tuple[int, int]:
        return self._lines.place(row, position - self._rows[row].pivot)


class Whole:
    """The whole model on whole rows, with δ added by a hook."""

    behind: Tensor
    """[rows, tokens] bool: the tokens of each row from its pivot on."""

    def __init__(self, adapter: ModelAdapter, rows: Sequence[TokenRow], *, layer: int, through: bool = False) -> None:
        self._adapter, self._layer, self._through = adapter, layer, through
        ids, mask = pad([row.ids for row in rows])
        self._inputs = {
            "input_ids": ids.to(adapter.device),
            "attention_mask": mask.to(adapter.device),
            "use_cache": False,
        }
        places = torch.tensor([[index, row.pivot] for index, row in enumerate(rows)]).T
        self.behind = torch.arange(ids.shape[1]) >= places[1][:, None]
        self._places = places.to(_device(adapter, layer))

    def run(self, delta: Tensor, *, loss_block: int) -> tuple[Tensor, Tensor]:
        last = self._adapter.n_layers - 1
        recording = record(
            self._adapter,
            self._inputs,
            keep={loss_block, last},
            calls=range(0),
            change=(self._layer, lambda hidden: _added(hidden, self._places, delta)),
            through=self._through,
        )
        self.start = recording.before(self._places)
        return recording.outputs[loss_block], recording.outputs[last]

    def place(self, row: int, position: int) -> tuple[int, int]:
        return row, position


def _device(adapter: ModelAdapter, layer: int) -> torch.device:
    return next(adapter.blocks[layer].parameters()).device


def _added(hidden: Tensor, places: Tensor, delta: Tensor) -> Tensor:
    """`delta` [rows, d_model] added at `places` [2, rows], each a line and a column."""
    return hidden + torch.zeros_like(hidden).index_put(tuple(places.to(hidden.device)), delta.to(hidden))


def _mask(before: Lines, lines: Lines, adapter: ModelAdapter, *, packed: bool) -> Tensor:
    """What each token of the suffixes sees of the prefixes and of the suffixes up to itself."""
    ours, theirs = lines.owners, before.owners
    if not packed:
        return torch.cat([theirs.ge(0), ours.ge(0)], dim=1).long().to(adapter.device)
    up_to_itself = torch.ones(lines.width, lines.width).tril().bool()
    suffixes = (ours[:, :, None] == ours[:, None, :]) & up_to_itself
    prefixes = (ours[:, :, None] == theirs[:, None, :]) & ours[:, :, None].ge(0)
    return additive(torch.cat([prefixes, suffixes], dim=2), adapter)
