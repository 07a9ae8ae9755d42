"""Random weights and batches, from seeds: what the exactness tests are about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from memit_vc.numerics.exact.factored import Dense, LowRank, Term
from memit_vc.numerics.exact.grid import quantum, snap, snap_dense
from memit_vc.numerics.exact.materialise import STORAGE_DTYPES, add_delta
from memit_vc.objects import BaseId, EditableWeight, FactId, PatchColumn, PatchHeader, WeightForm


def base_weight(
    seed: int, d_out: int, d_in: int, *, dtype: str = "F32", orientation: str = "out_in", scale: float = 0.05
) -> tuple[Tensor, EditableWeight]:
    """A stored tensor and its record."""
    generator = torch.Generator().manual_seed(seed)
    shape = (d_out, d_in) if orientation == "out_in" else (d_in, d_out)
    values = torch.randn(*shape, generator=generator) * scale
    values.view(-1)[0] = 2 * scale  # a weight of one entry must not be tiny by chance: the grid follows the largest
    tensor = values.to(STORAGE_DTYPES[dtype])
    weight = EditableWeight(
        name="h.0.w",
        parameter="h.0.w",
        layer=0,
        orientation=orientation,  # type: ignore[arg-type]
        d_out=d_out,
        d_in=d_in,
        dtype=dtype,
        quantum=quantum(float(tensor.abs().max())),
    )
    return tensor, weight


def batch(seed: int, weight: EditableWeight, n: int, *, size: float = 1e-3) -> LowRank:
    """A snapped batch of `n` facts whose delta is about `size` per entry."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(weight.d_out, n, generator=generator, dtype=torch.float64) * 3
    right = torch.randn(n, weight.d_in, generator=generator, dtype=torch.float64) * size / 3
    return LowRank(*snap(left.numpy(), right.numpy(), weight.quantum))


def dense_batch(seed: int, weight: EditableWeight, *, size: float = 1e-3) -> Dense:
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(weight.d_out, weight.d_in, generator=generator, dtype=torch.float64) * size
    return Dense(snap_dense(delta.numpy(), weight.quantum))


def by_numpy(base: Tensor, terms: Sequence[Term], weight: EditableWeight) -> Tensor:
    """The edited weight with D summed by another library than torch, all of it at once."""
    total = sum((term.matrix() for term in terms), np.zeros((weight.d_out, weight.d_in)))
    stored = torch.from_numpy(np.array(total if weight.orientation == "out_in" else total.T))
    return add_delta(base, lambda columns: stored[:, columns].clone(), weight)


def header_of(weight: EditableWeight, n: int, *, form: str = "low_rank") -> PatchHeader:
    return PatchHeader(
        base=BaseId("ab" * 32),
        weights={
            weight.name: WeightForm(
                form=form,  # type: ignore[arg-type]
                d_out=weight.d_out,
                d_in=weight.d_in,
                quantum=weight.quantum,
            )
        },
        columns=tuple(PatchColumn(fact=FactId(f"{i:064x}")) for i in range(n)),
        provenance=None,
    )


def bits(tensor: Tensor) -> bytes:
    """The stored bytes: equality of values is not enough (−0.0, NaN)."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
