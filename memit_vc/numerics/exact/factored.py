"""Updates of a weight, as patches hold them: float32 arrays. What is measured of them is computed in float64.

Of D = left @ right, QR of both sides gives D = Q₁ (R₁ R₂ᵀ) Q₂ᵀ: the small matrix in the middle has the singular values
of D, and no dense matrix is formed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memit_vc.errors import IntegrityError
from memit_vc.numerics.exact.grid import (
    Floats,
    column_bounds,
    dense_bound,
    dense_off_grid,
    low_rank_off_grid,
)
from memit_vc.objects import EditableWeight
from memit_vc.vcs.exact import check_bound


@dataclass(frozen=True)
class LowRank:
    """D = left @ right in y = W x orientation: left [d_out, n], right [n, d_in]. In a patch float32 on the grid."""

    left: Floats
    right: Floats

    @property
    def rank(self) -> int:
        return len(self.right)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.left), self.right.shape[1])

    @property
    def arrays(self) -> dict[str, Floats]:
        """What is stored, by the names that the format gives it."""
        return {"left": self.left, "right": self.right}

    def bounds(self, quantum: int) -> tuple[float, ...]:
        """What each column can come to, in grid units."""
        return column_bounds(self.left, self.right, quantum)

    def off_grid(self, quantum: int) -> list[int]:
        """Columns that are off the grid 2^quantum."""
        return low_rank_off_grid(self.left, self.right, quantum)

    def matrix(self) -> Floats:
        """D itself, float64."""
        return self.left.astype(np.float64) @ self.right.astype(np.float64)

    def select(self, positions: Sequence[int]) -> LowRank:
        """Some of the columns, in the given order (none given: all), in memory of their own."""
        if not positions:
            return LowRank(self.left.copy(), self.right.copy())
        return LowRank(self.left.take(positions, axis=1), self.right.take(positions, axis=0))

    def norm(self) -> float:
        """Frobenius, from two small Gram matrices. Of what nearly cancels, see `difference`."""
        left, right = self.left.astype(np.float64), self.right.astype(np.float64)
        return math.sqrt(max(0.0, float(((left.T @ left) * (right @ right.T)).sum())))

    def core(self) -> Floats:
        """R₁ R₂ᵀ, float64: a small matrix with the singular values, and so the norm, of D."""
        small: Floats = _upper(self.left) @ _upper(self.right.T).T
        return small

    def svd(self) -> tuple[Floats, Floats, Floats]:
        """U [d_out, r], the singular values [r], descending, and Vᵀ [r, d_in] of D, float64."""
        (q_left, r_left), (q_right, r_right) = (
            np.linalg.qr(side.astype(np.float64)) for side in (self.left, self.right.T)
        )
        u, s, vh = np.linalg.svd(r_left @ r_right.T, full_matrices=False)
        return q_left @ u, s, vh @ q_right.T


@dataclass(frozen=True)
class Dense:
    """D itself, [d_out, d_in], float32 on the grid; it counts as one column."""

    delta: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        return self.delta.shape

    @property
    def arrays(self) -> dict[str, Floats]:
        return {"dense": self.delta}

    def bounds(self, quantum: int) -> tuple[float, ...]:
        return (dense_bound(self.delta, quantum),)

    def off_grid(self, quantum: int) -> list[int]:
        return [0] if dense_off_grid(self.delta, quantum) else []

    def matrix(self) -> Floats:
        return self.delta.astype(np.float64)


Term: TypeAlias = "LowRank | Dense"
"""One summand of D for one weight."""


def stacked(terms: Sequence[LowRank], d_out: int, d_in: int) -> LowRank:
    """Σ terms: the columns of all of them, one behind the other."""
    if len(terms) == 1:  # no copy
        return terms[0]
    nothing = np.empty((d_out, 0), np.float32), np.empty((0, d_in), np.float32)
    return LowRank(
        np.concatenate([nothing[0], *(term.left for term in terms)], axis=1),
        np.concatenate([nothing[1], *(term.right for term in terms)]),
    )


def summed(terms: Sequence[Term], weight: EditableWeight) -> Floats:
    """Σ terms as a matrix, float64 and exact. Errors as for `check_terms`."""
    check_terms(terms, weight)
    total = stacked([term for term in terms if isinstance(term, LowRank)], weight.d_out, weight.d_in).matrix()
    for term in terms:
        if isinstance(term, Dense):
            total += term.delta
    return total


def difference(new: LowRank, old: LowRank) -> LowRank:
    """new − old of the same rank, float64, written as a sum of small parts, so that nearly equal ones do not cancel."""
    left, right = old.left.astype(np.float64), new.right.astype(np.float64)
    return LowRank(np.concatenate([new.left - left, left], axis=1), np.concatenate([right, right - old.right]))


def beside_identity(matrix: Floats) -> LowRank:
    """A matrix as factors: the identity stands on the narrower side."""
    d_out, d_in = matrix.shape
    identity = np.eye(min(d_out, d_in), dtype=matrix.dtype)
    return LowRank(matrix, identity) if d_in <= d_out else LowRank(identity, matrix)


def of_rank(rank: int, u: Floats, s: Floats, vh: Floats) -> LowRank:
    """The best approximation of that rank of U diag(s) Vᵀ."""
    root = np.sqrt(s[:rank])
    return LowRank(u[:, :rank] * root, root[:, None] * vh[:rank])


def check_terms(terms: Sequence[Term], weight: EditableWeight) -> None:
    """IntegrityError for terms that do not fit the weight or are off its grid, EngineError if sums could round."""
    check_bound({weight.name: sum(term_bound(term, weight) for term in terms)})


def term_bound(term: Term, weight: EditableWeight) -> float:
    """What one summand of D can come to, in grid units. IntegrityError if it does not fit or is off the grid."""
    arrays, n = list(term.arrays.values()), term.rank if isinstance(term, LowRank) else 0
    expected = [(weight.d_out, weight.d_in)] if isinstance(term, Dense) else [(weight.d_out, n), (n, weight.d_in)]
    if [array.shape for array in arrays] != expected or any(array.dtype != np.float32 for array in arrays):
        raise IntegrityError(
            f"{weight.name}: an update of {[list(array.shape) for array in arrays]} does not fit a weight of "
            f"{weight.d_out} × {weight.d_in}",
            hint="Run `memitvc fsck`: the patch belongs to another base.",
        )
    if term.off_grid(weight.quantum):
        raise IntegrityError(
            f"{weight.name}: an update is off the grid 2^{weight.quantum}, so it cannot be applied exactly",
            hint="Run `memitvc fsck`: the patch belongs to another base, or is damaged.",
        )
    return sum(term.bounds(weight.quantum))


def _upper(matrix: Floats) -> NDArray[np.float64]:
    """R of QR: [min(rows, columns), columns], float64."""
    return np.asarray(np.linalg.qr(matrix.astype(np.float64), mode="r"))
