"""Re-solving a state: facts taken out and put in by closed form, from stored keys and targets.

With D(S) A(S) = Σ_S B Kᵀ and A(S) = λC + Σ_S K Kᵀ, going from S to S′ = S − c + a changes D(S) by

    [(D K_c − B_c) K_cᵀ + (B_a − D K_a) K_aᵀ] A(S′)⁻¹

No gradients, no model. Where the D of a state is not D(S), by the snapping of its columns or by a history without
history, the two halves read it differently. What leaves is read at D(S): A(S′)⁻¹ K_c is large, and would multiply the
difference. What comes in is read at the present D, as a commit reads it, so that it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from memit_vc.errors import EngineError
from memit_vc.numerics.edit.solve import adjusted_keys, downdate_keys
from memit_vc.numerics.exact.factored import Dense, LowRank, Term, difference
from memit_vc.numerics.exact.grid import COLUMN_BITS, break_even, snap, snap_dense
from memit_vc.numerics.exact.materialise import tensor_of
from memit_vc.numerics.statistics.factors import BlockFactor, Factor
from memit_vc.objects import EditableWeight

Terms: TypeAlias = Sequence[Sequence[Term]]
"""The terms of each of a layer's weights: of its one projection, or of each expert's, whose keys stand below each other
(docs/mixtures.md).
"""


def product(terms: Terms, keys: Tensor, d_out: int) -> Tensor:
    """D K, float64 [d_out, n], for D = Σ terms and K [d_in, n], without forming a low-rank D."""
    keys = keys.double()
    total = torch.zeros(d_out, keys.shape[1], dtype=torch.float64)
    for some, part in zip(terms, keys.tensor_split(len(terms)), strict=True):
        for term in some:
            if isinstance(term, Dense):
                total += tensor_of(term.delta).double() @ part
            else:
                total += tensor_of(term.left).double() @ (tensor_of(term.right).double() @ part)
    return total


def change(
    factor: Factor | BlockFactor,
    terms: Terms,
    *,
    out: tuple[Tensor, Tensor],
    into: tuple[Tensor, Tensor],
    staying: tuple[Tensor, Tensor],
) -> LowRank:
    """The update that takes the constraints `out` = (K_c, B_c) out of D = Σ `terms` and puts `into` = (K_a, B_a) in.

    It is float64. K are [d_in, n], B [d_out, n] relative to the base; `staying` are those of the facts in both states.
    Columns: those of `out` first, then those of `into`.
    """
    d_out = into[1].shape[0]
    before = [torch.cat(pair, dim=1).double() for pair in zip(staying, out, strict=True)]
    solved = before[1] @ (adjusted_keys(factor, before[0]).T @ out[0].double())
    residuals = [solved - out[1].double(), into[1].double() - product(terms, into[0], d_out)]
    keys = torch.cat([out[0], into[0]], dim=1).double()
    after = torch.cat([staying[0], into[0]], dim=1)
    return LowRank(torch.cat(residuals, dim=1).numpy(), downdate_keys(factor, keys, after).T.numpy())


def distance(factor: Factor | BlockFactor, terms: Terms, keys: Tensor, targets: Tensor) -> float:
    """How far D = Σ `terms` is from D(S) of all live constraints, at their keys: ‖D K − D(S) K‖ / ‖D K‖."""
    keys = keys.double()
    present = product(terms, keys, targets.shape[0])
    joint = targets.double() @ (adjusted_keys(factor, keys).T @ keys)
    return _share(float((present - joint).norm()), float(present.norm()))


def whole(factor: Factor | BlockFactor, keys: Tensor, targets: Tensor) -> LowRank:
    """D(S) = B Kᵀ A(S)⁻¹ itself, float64, from all live constraints, K [d_in, m] and B [d_out, m]."""
    return LowRank(targets.double().numpy(), adjusted_keys(factor, keys).T.numpy())


def snapped(update: LowRank, weight: EditableWeight) -> tuple[Term, float]:
    """The update (float64) on the weight's grid, and the relative change that snapping made.

    Dense above the break-even rank, and if single columns are too large for the grid though their sum is not, as
    those of facts with almost equal keys are. EngineError for an update that no form can hold.
    """
    if update.rank > break_even(weight.d_out, weight.d_in):
        return _dense(update, weight)
    try:
        made = LowRank(*snap(update.left, update.right, weight.quantum, most_bits=COLUMN_BITS))
    except EngineError:
        return _dense(update, weight)
    return made, _share(difference(made, update).norm(), update.norm())


def _dense(update: LowRank, weight: EditableWeight) -> tuple[Term, float]:
    # by torch, on as many threads as the provenance records: what is stored depends on them
    full = (tensor_of(update.left) @ tensor_of(update.right)).numpy()
    dense = snap_dense(full, weight.quantum)
    return Dense(dense), _share(float(np.linalg.norm(dense - full)), float(np.linalg.norm(full)))


def _share(part: float, all_of_it: float) -> float:
    return part / all_of_it if all_of_it else 0.0
