"""How two states differ in one weight, from the factors: no dense matrix, no model, no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import numpy as np

from memit_vc.errors import UnsupportedModelError
from memit_vc.numerics.exact.factored import Dense, LowRank, Term, stacked
from memit_vc.numerics.exact.grid import Floats


def spectrum(plus: Sequence[Term], minus: Sequence[Term]) -> tuple[float, ...]:
    """Singular values of D = Σ plus − Σ minus in float64, descending, without those that are rounding."""
    signed = [(np.float32(1), term) for term in plus] + [(np.float32(-1), term) for term in minus]
    if not signed:
        return ()
    d_out, d_in = signed[0][1].shape
    whole = stacked(
        [LowRank(s * term.left, term.right) for s, term in signed if isinstance(term, LowRank)], d_out, d_in
    )
    dense = [sign * term.delta for sign, term in signed if isinstance(term, Dense)]
    if dense:
        core = whole.matrix()
        for update in dense:
            core += update
        scale = float(np.linalg.norm(core))
    else:
        # columns of one length: only the products matter, and QR loses nothing to a large spread
        lengths = np.linalg.norm(whole.left.astype(np.float64), axis=0)
        even = LowRank(whole.left / np.where(lengths, lengths, 1.0), whole.right * lengths[:, None])
        core, scale = even.core(), float(np.linalg.norm(even.left) * np.linalg.norm(even.right))
    cutoff = max(d_out, d_in) * sys.float_info.epsilon * scale
    return tuple(float(value) for value in np.linalg.svd(core, compute_uv=False) if value > cutoff)


def sum_of_squares(chunks: Iterable[bytes], dtype: str) -> float:
    """Σ w² in float64 over a stored tensor's bytes, chunk by chunk. UnsupportedModelError for quantised storage."""
    return sum(float(np.square(_decoded(chunk, dtype)).sum()) for chunk in chunks)


def _decoded(chunk: bytes, dtype: str) -> Floats:
    if dtype == "BF16":
        return (np.frombuffer(chunk, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    names = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    if dtype not in names:
        raise UnsupportedModelError(f"a tensor of {dtype} has no norm to compare with")
    return np.frombuffer(chunk, names[dtype]).astype(np.float64)
