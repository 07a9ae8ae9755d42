"""Rows of tokens put one behind the other in lines of equal length, so that a forward has next to no padding.

Rows of a line do not see each other: the mask and the positions say which tokens belong together. Everything in a
block but the attention works token by token, so a batch of lines costs what its tokens cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ATTENTION = 0.004
"""What a token's attention costs for each token of its line, backward included, against all else that a block does with
it: measured.
"""
_WIDTHS = 8
_SHARES = (1.0, 1.5, 2.0, 3.0)
"""Bounds tried for what stands before a line, as multiples of the longest prefix."""


@dataclass(frozen=True)
class Lines:
    """`starts[row]` is the (line, column) of a row's first token; `lengths` are the rows' tokens."""

    lengths: tuple[int, ...]
    starts: tuple[tuple[int, int], ...]
    count: int
    width: int

    @classmethod
    def single(cls, lengths: Sequence[int]) -> Lines:
        """A line for each row, as a padded batch has it."""
        return cls(tuple(lengths), tuple((i, 0) for i in range(len(lengths))), len(lengths), max(lengths, default=0))

    @classmethod
    def packed(cls, lengths: Sequence[int], before: Sequence[int] | None = None) -> Lines:
        """The arrangement of least work, rows of a line one behind the other.

        `before`: what stands before each row and is seen, not computed. It may come to several rows' worth in a line,
        so lines are bounded in both.
        """
        longest, widest = max(lengths, default=0), max(before or (0,), default=0)
        if not longest:
            return cls.single(lengths)
        most = max(longest, min(sum(lengths), 3 * longest))
        step = max(1, (most - longest) // _WIDTHS)
        behind = list(before or [0] * len(lengths))
        tried = [
            _first_fit(lengths, behind, width, int(widest * share))
            for width in range(longest, most + 1, step)
            for share in (_SHARES if widest else (1.0,))
        ]
        return min(tried, key=lambda lines: lines._work(behind))

    def _work(self, before: Sequence[int]) -> float:
        seen = self.width + self.behind(before).width
        return self.count * self.width * (1 + _ATTENTION * seen)

    def behind(self, lengths: Sequence[int]) -> Lines:
        """The same rows in the same lines, with other lengths."""
        used = [0] * self.count
        starts: dict[int, tuple[int, int]] = {}
        for row in sorted(range(len(self.starts)), key=lambda row: self.starts[row]):
            line = self.starts[row][0]
            starts[row] = (line, used[line])
            used[line] += lengths[row]
        ordered = tuple(starts[row] for row in range(len(self.starts)))
        return Lines(tuple(lengths), ordered, self.count, max(used, default=0))

    def place(self, row: int, offset: int) -> tuple[int, int]:
        """(line, column) of a row's token number `offset`."""
        line, column = self.starts[row]
        return line, column + offset

    def fill(self, values: Sequence[Sequence[int]], *, padding: int = 0) -> Tensor:
        """Int64 [lines, width] with `values[row]` where the row's tokens are."""
        filled = torch.full((self.count, self.width), padding, dtype=torch.long)
        for (line, column), row in zip(self.starts, values, strict=True):
            filled[line, column : column + len(row)] = torch.tensor(list(row), dtype=torch.long)
        return filled

    @property
    def owners(self) -> Tensor:
        """Which row each token belongs to, int64 [lines, width]; -1 for padding."""
        return self.fill([[row] * length for row, length in enumerate(self.lengths)], padding=-1)


def _first_fit(lengths: Sequence[int], before: Sequence[int], width: int, behind: int) -> Lines:
    """Rows put where they first fit, longest first."""
    room: list[tuple[int, int]] = []
    starts = [(0, 0)] * len(lengths)
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], -before[row])):
        length, prefix = lengths[row], before[row]
        line = next((i for i, (left, seen) in enumerate(room) if length <= left and prefix <= seen), len(room))
        if line == len(room):
            room.append((width, behind))
        left, seen = room[line]
        starts[row] = (line, width - left)
        room[line] = (left - length, seen - prefix)
    return Lines(tuple(lengths), tuple(starts), len(room), width - min(left for left, _ in room))
