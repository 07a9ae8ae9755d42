"""Rows of tokens as a forward takes them: what rows begin with in common is there, and computed, once.

Attention is causal, so a token's hidden state depends on the tokens before it only. Sorted rows are grown into trees
that share lines; a mask shows each token the way from the root of its tree, and its position is its depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memit_vc.numerics.forward.lengths import check_tokens
from memit_vc.numerics.forward.masks import additive, packs, window
from memit_vc.numerics.forward.rows import buckets, pad, portions
from memit_vc.numerics.model.adapter import ModelAdapter

_WIDTHS = 12
_WIDEST = 512
_ATTENTION = 0.0004
"""What a token's attention costs in a forward for each token of its line, against all else: measured, without a
backward, which costs ten times as much (`lines.py`).
"""


@dataclass(frozen=True)
class Laid:
    """One forward: `inputs` of the backbone (without its cache), and where its rows are."""

    inputs: Mapping[str, Any]
    places: Sequence[tuple[int, Sequence[int]]]
    """The line of each row, and the column of each of its tokens."""

    def at(self, offsets: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(lines, columns) of token number `offsets[row]` of each row."""
        lines = [line for line, _ in self.places]
        columns = [columns[offset] for (_, columns), offset in zip(self.places, offsets, strict=True)]
        return torch.tensor(lines), torch.tensor(columns)


def grouped(adapter: ModelAdapter, rows: Sequence[Sequence[int]], *, max_tokens: int) -> list[list[int]]:
    """Row numbers in groups for `laid_out`, each of about `max_tokens` tokens at most (a single row may have more)."""
    if not _share(adapter, rows):
        return buckets([len(row) for row in rows], max_tokens=max_tokens)
    order = sorted(range(len(rows)), key=lambda i: tuple(rows[i]))
    groups = portions([len(rows[i]) for i in order], max_tokens=max_tokens)
    return [[order[i] for i in group] for group in groups]


def laid_out(adapter: ModelAdapter, rows: Sequence[Sequence[int]]) -> Laid:
    """The forward of `rows`, of one token at least: trees in lines where the model allows it, else a padded batch.

    EngineError for a row that is longer than the model has positions.
    """
    check_tokens(adapter, rows)
    if not _share(adapter, rows):
        ids, mask = pad(rows)
        inputs = {"input_ids": ids.to(adapter.device), "attention_mask": mask.to(adapter.device)}
        return Laid(inputs, [(index, range(len(row))) for index, row in enumerate(rows)])
    longest, total = max(map(len, rows)), sum(map(len, rows))
    most = max(longest, min(total, _WIDEST, window(adapter) or total))
    step = max(1, (most - longest) // _WIDTHS)
    forest = min((_Forest.grown(rows, width) for width in range(longest, most + 1, step)), key=lambda each: each.work)
    ids, _ = pad(forest.tokens)
    depths, _ = pad(forest.depths)
    inputs = {
        "input_ids": ids.to(adapter.device),
        "position_ids": depths.to(adapter.device),
        "attention_mask": additive(forest.visible(), adapter),
    }
    return Laid(inputs, forest.places)


def _share(adapter: ModelAdapter, rows: Sequence[Sequence[int]]) -> bool:
    limit = window(adapter)
    return packs(adapter) and (limit is None or max(map(len, rows), default=0) <= limit)


@dataclass(frozen=True)
class _Forest:
    """Lines of trees: each line's tokens, their depths, the columns of their parents (-1 for a root)."""

    tokens: list[list[int]]
    depths: list[list[int]]
    parents: list[list[int]]
    places: list[tuple[int, tuple[int, ...]]]

    @classmethod
    def grown(cls, rows: Sequence[Sequence[int]], width: int) -> _Forest:
        """In sorted order a row shares the most with the one before it, and so only with that one is it compared."""
        forest = cls([[]], [[]], [[]], [(0, ())] * len(rows))
        before: Sequence[int] = ()
        path: list[int] = []
        for number in sorted(range(len(rows)), key=lambda i: tuple(rows[i])):
            row = rows[number]
            shared = _in_common(before, row)
            if len(forest.tokens[-1]) + len(row) - shared > width:
                for lists in (forest.tokens, forest.depths, forest.parents):
                    lists.append([])
                shared = 0
            path = path[:shared]
            for token in row[shared:]:
                forest.parents[-1].append(path[-1] if path else -1)
                forest.depths[-1].append(len(path))
                path.append(len(forest.tokens[-1]))
                forest.tokens[-1].append(token)
            forest.places[number] = (len(forest.tokens) - 1, tuple(path))
            before = row
        return forest

    @property
    def width(self) -> int:
        return max(map(len, self.tokens))

    @property
    def work(self) -> float:
        return len(self.tokens) * self.width * (1 + _ATTENTION * self.width)

    def visible(self) -> Tensor:
        """What each token sees, bool [lines, width, width]: what its parent sees, and itself."""
        seen = torch.eye(self.width, dtype=torch.bool).repeat(len(self.parents), 1, 1)
        for line, parents in enumerate(self.parents):
            for column, parent in enumerate(parents):
                if parent >= 0:
                    seen[line, column] |= seen[line, parent]
        return seen


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    differing = (i for i, (left, right) in enumerate(zip(one, other, strict=False)) if left != right)
    return next(differing, min(len(one), len(other)))
