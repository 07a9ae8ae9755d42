"""The closed form, float64: Δ = R Kᵀ A⁻¹ with A = λC + Σ K_p K_pᵀ (live earlier facts) + K Kᵀ.

Meng et al. 2023 (arXiv:2210.07229), equation 14; without earlier facts it is MEMIT exactly. λC is factored once per
layer (`factors.py`); a batch then costs O(d² m) by Woodbury, m the number of live and new facts, never d³.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memit_vc.errors import EngineError
from memit_vc.numerics.statistics.factors import BlockFactor, Factor


def adjusted_keys(factor: Factor | BlockFactor, keys: Tensor, *, history: Tensor | None = None) -> Tensor:
    """A⁻¹ K, float64 [d_in, n], so that Δ = R (A⁻¹ K)ᵀ.

    `keys` K [d_in, n] are the batch's, `history` [d_in, m] those of the live earlier facts (None or empty: plain
    MEMIT). EngineError if A is not positive definite.
    """
    keys = keys.double()
    stacked = keys if history is None or not history.shape[1] else torch.cat([history.double(), keys], dim=1)
    n, d = keys.shape[1], keys.shape[0]
    if stacked.shape[1] < d:
        half = factor.solve(stacked)
        core = torch.eye(stacked.shape[1], dtype=torch.float64, device=half.device) + stacked.T @ half
        lower = _cholesky(core, "I + Kᵀ(λC)⁻¹K")
        # A⁻¹ M = X (I + Mᵀ X)⁻¹ with X = (λC)⁻¹ M; only the batch's columns are wanted
        unit = torch.eye(stacked.shape[1], dtype=torch.float64, device=half.device)[:, -n:]
        return half @ torch.cholesky_solve(unit, lower)
    gram = factor.matrix() + stacked @ stacked.T
    return torch.cholesky_solve(keys, _cholesky(gram, "λC + KKᵀ"))


def downdate_keys(factor: Factor | BlockFactor, keys: Tensor, remaining: Tensor) -> Tensor:
    """A′⁻¹ K_c, float64 [d_in, n], with A′ = λC + Σ K K ᵀ over the facts that remain.

    The update that takes batch c out is (D K_c − B_c)(A′⁻¹ K_c)ᵀ.
    """
    keys, remaining = keys.double(), remaining.double()
    half = factor.solve(keys)
    if not remaining.shape[1]:
        return half
    base = factor.solve(remaining)
    core = torch.eye(remaining.shape[1], dtype=torch.float64, device=base.device) + remaining.T @ base
    lower = _cholesky(core, "I + Kᵀ(λC)⁻¹K")
    return half - base @ torch.cholesky_solve(remaining.T @ half, lower)


def _cholesky(matrix: Tensor, name: str) -> Tensor:
    lower: Tensor
    lower, info = torch.linalg.cholesky_ex(matrix)
    if int(info.item()):
        raise EngineError(
            f"{name} is not positive definite (leading minor of order {int(info.item())})",
            hint="Check the model's dtype and the statistics: the keys hold infinite, NaN or extreme values.",
        )
    return lower
