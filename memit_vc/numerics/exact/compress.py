"""Fewer columns for a sum of many: the best low-rank approximation of D, snapped again, with its measured error.

By QR of the stacked left columns and of the stacked right rows, D = Q₁ (R₁ R₂ᵀ) Q₂ᵀ; the truncated SVD of the small
matrix in the middle is that of D (Eckart and Young 1936), and no dense matrix is formed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memit_vc.numerics.exact.grid import snap
from memit_vc.numerics.exact.materialise import Materialiser, Term
from memit_vc.numerics.exact.patchfile import LowRank
from memit_vc.objects import EditableWeight

__all__ = ["Compressed", "compress"]

_Pair = tuple[Tensor, Tensor]
_COLUMN_BITS = 48
"""Bits of a column's largest product that two float32 factors hold."""
_MOST_HALVINGS = 4
"""An update that needs more is no edit: `snap` refuses it, with its numbers."""


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
        return int(self.term.right.shape[0])


def compress(terms: Sequence[Term], weight: EditableWeight, tolerance: float) -> Compressed | None:
    """The smallest D′ within `tolerance` of D = Σ `terms`; None where D is 0.

    Where snapping alone moves D by more than `tolerance`, `error` of what is returned is above it: the caller decides.
    EngineError where a column does not fit the grid.
    """
    exact = _factors(terms, weight)
    (q_left, r_left), (q_right, r_right) = torch.linalg.qr(exact[0]), torch.linalg.qr(exact[1].T)
    u, s, vh = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    size = float(s.norm())
    if not size:
        return None
    tails = [float(s[rank:].norm()) / size for rank in range(len(s) + 1)]
    rank = max(1, next(n for n, tail in enumerate(tails) if tail <= tolerance))
    while True:
        root = s[:rank].sqrt()
        left, right = q_left @ (u[:, :rank] * root), (root[:, None] * vh[:rank]) @ q_right.T
        term = LowRank(*snap(*_small_enough(left, right, weight.quantum), weight.quantum))
        found = Compressed(term, exact[1].shape[0], _distance((term.left.double(), term.right.double()), exact) / size)
        # one more column helps as long as what was cut, and not the snapping, is what is too much
        if found.error <= tolerance or rank == len(s) or tails[rank] < tolerance / 2:
            return found
        rank += 1


def _factors(terms: Sequence[Term], weight: EditableWeight) -> _Pair:
    """D as left [d_out, n] and right [n, d_in], float64: the columns, or D and the identity where those are more."""
    full = min(weight.d_out, weight.d_in)
    low_rank = [term for term in terms if isinstance(term, LowRank)]
    if len(low_rank) == len(terms) and sum(term.right.shape[0] for term in low_rank) <= full:
        nothing = torch.zeros(weight.d_out, 0), torch.zeros(0, weight.d_in)
        left = torch.cat([nothing[0], *(term.left for term in low_rank)], dim=1).double()
        return left, torch.cat([nothing[1], *(term.right for term in low_rank)], dim=0).double()
    total = Materialiser(terms, weight).delta(slice(None))
    identity = torch.eye(full, dtype=torch.float64)
    return (total, identity) if weight.d_in <= weight.d_out else (identity, total)


def _small_enough(left: Tensor, right: Tensor, quantum: int) -> _Pair:
    """The same product with each column that is too large for the grid cut into equal parts: the first singular value
    gathers what many columns shared.
    """
    tops = zip(left.abs().amax(dim=0).tolist(), right.abs().amax(dim=1).tolist(), strict=True)
    bits = [math.frexp(one)[1] + math.frexp(other)[1] - quantum for one, other in tops]
    parts = torch.tensor([2 ** min(max(0, n - _COLUMN_BITS), _MOST_HALVINGS) for n in bits])
    return (left / parts).repeat_interleave(parts, dim=1), right.repeat_interleave(parts, dim=0)


def _distance(one: _Pair, other: _Pair) -> float:
    """‖L₁R₁ − L₂R₂‖: of the triangles of two QRs, which lose nothing where the difference is small."""
    left = torch.linalg.qr(torch.cat([one[0], -other[0]], dim=1)).R
    right = torch.linalg.qr(torch.cat([one[1], other[1]], dim=0).T).R
    return float((left @ right.T).norm())
