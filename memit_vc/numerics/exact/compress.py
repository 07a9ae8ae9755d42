"""Fewer columns for a sum of many: the best low-rank approximation of D, snapped again, with its measured error.

That is the truncated SVD of D (Eckart and Young 1936), from its factors: `LowRank.svd`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memit_vc.numerics.exact.factored import LowRank, Term, beside_identity, of_rank, stacked, summed
from memit_vc.numerics.exact.grid import snap
from memit_vc.objects import EditableWeight


@dataclass(frozen=True)
class Compressed:
    """D′ on the grid, of the smallest rank at which `error` = ‖D′ − D‖ / ‖D‖ (Frobenius) is small enough.

    `columns` is the number that D was made of, min(d_out, d_in) where it was dense.
    """

    term: LowRank
    columns: int
    error: float

    @property
    def rank(self) -> int:
        return self.term.rank


def compress(terms: Sequence[Term], weight: EditableWeight, tolerance: float) -> Compressed | None:
    """The smallest D′ within `tolerance` of D = Σ `terms`; None if D is 0.

    Where snapping alone moves D by more than `tolerance`, `error` of what is returned is above it: the caller decides.
    EngineError if a column does not fit the grid.
    """
    exact = _whole(terms, weight)
    u, s, vh = exact.svd()
    size = float(np.linalg.norm(s))
    if not size:
        return None
    tails = [float(np.linalg.norm(s[rank:])) / size for rank in range(len(s) + 1)]
    rank = max(1, next(n for n, tail in enumerate(tails) if tail <= tolerance))
    while True:
        found = of_rank(rank, u, s, vh)
        term = LowRank(*snap(found.left, found.right, weight.quantum))
        # of the triangles of two QRs, which lose nothing if the difference is small
        away = stacked([term, LowRank(-exact.left, exact.right)], weight.d_out, weight.d_in).core()
        error = float(np.linalg.norm(away)) / size
        # one more column helps as long as what was cut, and not the snapping, is what is too much
        if error <= tolerance or rank == len(s) or tails[rank] < tolerance / 2:
            return Compressed(term, exact.rank, error)
        rank += 1


def _whole(terms: Sequence[Term], weight: EditableWeight) -> LowRank:
    """D as its columns, or as D and the identity if those are more."""
    full = min(weight.d_out, weight.d_in)
    low_rank = [term for term in terms if isinstance(term, LowRank)]
    if len(low_rank) == len(terms) and sum(term.rank for term in low_rank) <= full:
        return stacked(low_rank, weight.d_out, weight.d_in)
    return beside_identity(summed(terms, weight))
