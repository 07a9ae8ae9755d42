"""Delta debugging: the algorithm ddmin of Zeller and Hildebrandt 2002, "Simplifying and Isolating Failure-Inducing
Input".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

_T = TypeVar("_T")


def minimal(items: Sequence[_T], fails: Callable[[Sequence[_T]], bool]) -> list[_T]:
    """A part of `items`, in their order, that still fails and of which no single item can be left out.

    `fails(items)` must be true and `fails([])` false. At most about n² + 3n calls; log n if one item is guilty.
    """
    left, pieces = list(items), 2
    while len(left) > 1:
        size = -(-len(left) // pieces)
        parts = [left[start : start + size] for start in range(0, len(left), size)]
        smaller = next((part for part in parts if fails(part)), None)
        if smaller is not None:
            left, pieces = smaller, 2
            continue
        others = [[item for other in parts[:i] + parts[i + 1 :] for item in other] for i in range(len(parts))]
        # with two parts the complements are the parts themselves
        rest = next((other for other in others if fails(other)), None) if len(parts) > 2 else None
        if rest is not None:
            left, pieces = rest, max(pieces - 1, 2)
        elif pieces >= len(left):
            break
        else:
            pieces = min(2 * pieces, len(left))
    return left
