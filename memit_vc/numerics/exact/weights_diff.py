"""How two states differ in one weight, from the factors: no dense matrix, no model, no torch.

With D = Σ ± left right over the columns that only one state has, QR of the stacked left columns and of the stacked
right rows gives D = Q₁ (R₁ R₂ᵀ) Q₂ᵀ, so the singular values of the small matrix R₁ R₂ᵀ are those of D.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memit_vc.errors import UnsupportedModelError
from memit_vc.numerics.exact.factor_arrays import Factors, Floats

__all__ = ["Spectrum", "spectrum", "sum_of_squares"]


@dataclass(frozen=True)
class Spectrum:
    """Singular values of D in float64, descending, without those that are rounding."""

    values: tuple[float, ...]

    @property
    def rank(self) -> int:
        return len(self.values)

    @property
    def norm(self) -> float:
        """Frobenius."""
        return float(np.linalg.norm(self.values)) if self.values else 0.0


def spectrum(plus: Sequence[Factors | Floats], minus: Sequence[Factors | Floats]) -> Spectrum:
    """The spectrum of Σ plus − Σ minus. Dense terms [d_out, d_in] are added up where there are any."""
    signed = [(1.0, term) for term in plus] + [(-1.0, term) for term in minus]
    low_rank = [(sign, term) for sign, term in signed if isinstance(term, Factors)]
    dense = [(sign, term) for sign, term in signed if not isinstance(term, Factors)]
    if not signed:
        return Spectrum(())
    values: NDArray[np.floating[Any]]
    sizes: tuple[int, ...]
    if dense:
        total = np.zeros(dense[0][1].shape, dtype=np.float64)
        for sign, update in dense:
            total += sign * update
        for sign, term in low_rank:
            total += sign * (term.left.astype(np.float64) @ term.right.astype(np.float64))
        scale, sizes = float(np.linalg.norm(total)), total.shape
        values = np.linalg.svd(total, compute_uv=False)
    else:
        left = np.concatenate([sign * term.left.astype(np.float64) for sign, term in low_rank], axis=1)
        right = np.concatenate([term.right.astype(np.float64) for _, term in low_rank], axis=0)
        # columns of one length: only the products matter, and QR loses nothing to a large spread
        lengths = np.linalg.norm(left, axis=0)
        left, right = left / np.where(lengths, lengths, 1.0), right * lengths[:, None]
        first, second = _upper(left), _upper(right.T)
        scale, sizes = float(np.linalg.norm(first) * np.linalg.norm(second)), (left.shape[0], right.shape[1])
        values = np.linalg.svd(first @ second.T, compute_uv=False)
    cutoff = max(sizes) * sys.float_info.epsilon * scale
    return Spectrum(tuple(float(value) for value in values if value > cutoff))


def _upper(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """R of QR: [min(rows, columns), columns]."""
    return np.linalg.qr(matrix)[1]


def sum_of_squares(chunks: Iterable[bytes], dtype: str) -> float:
    """Σ w² in float64 over a stored tensor's bytes, chunk by chunk. UnsupportedModelError for quantised storage."""
    return sum(float(np.square(_decoded(chunk, dtype)).sum()) for chunk in chunks)


def _decoded(chunk: bytes, dtype: str) -> NDArray[np.float64]:
    if dtype == "BF16":
        return (np.frombuffer(chunk, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    names = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    if dtype not in names:
        raise UnsupportedModelError(f"a tensor of {dtype} has no norm to compare with")
    return np.frombuffer(chunk, names[dtype]).astype(np.float64)
