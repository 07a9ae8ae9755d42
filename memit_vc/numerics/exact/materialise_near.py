"""Materialising on the device that a model lies on, where that gives the CPU's bytes.

The sums are exact and the casts are defined (`materialise.py`), so a device that keeps to IEEE 754 cannot give other
bits. Not all do in all modes: some emulate float64, some flush small numbers to zero. So a device is tried once, on
a case that holds all that could differ, and left alone if one bit does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache, partial

import torch
from torch import Tensor

from memit_vc.numerics.exact.factored import Dense, LowRank, Term
from memit_vc.numerics.exact.materialise import STORAGE_DTYPES, materialise
from memit_vc.numerics.model.devices import CPU, computed_on, solve_device
from memit_vc.objects import EditableWeight

_LOG = logging.getLogger(__name__)
_QUANTUM = -44
_ROWS, _COLUMNS, _RANK = 48, 96, 24


def materialise_near(base: Tensor, terms: Sequence[Term], weight: EditableWeight, device: torch.device) -> Tensor:
    """`materialise`, on `device` where that is fast and exact and has the memory, else on the CPU. The same bytes."""
    compute = partial(materialise, base, terms, weight)
    near = solve_device(device)
    return computed_on(near if near == CPU or gives_the_cpus_bytes(near) else CPU, compute)


@cache
def gives_the_cpus_bytes(device: torch.device) -> bool:
    """Whether a known case comes out on `device` as on the CPU, bit for bit, in every storage dtype and orientation."""
    try:
        same = all(_same(device, dtype, stored) for dtype in STORAGE_DTYPES for stored in ("out_in", "in_out"))
    except RuntimeError as error:
        _LOG.warning("weights are materialised on the CPU: %s cannot do it: %s", device, error)
        return False
    if not same:
        _LOG.warning("weights are materialised on the CPU: %s gives other bits", device)
    return same


def _same(device: torch.device, dtype: str, stored: str) -> bool:
    base, terms, weight = _case(dtype, stored)
    expected, found = (materialise(base, terms, weight, device=where) for where in (CPU, device))
    return torch.equal(expected.view(torch.uint8), found.view(torch.uint8))


def _case(dtype: str, stored: str) -> tuple[Tensor, list[Term], EditableWeight]:
    """A weight with −0.0, NaN, subnormal numbers and halves that a cast must round to even; factors of full width."""
    random = torch.Generator().manual_seed(0)
    shape = (_ROWS, _COLUMNS) if stored == "out_in" else (_COLUMNS, _ROWS)
    base = torch.randn(shape, generator=random, dtype=torch.float64).mul_(0.25).to(STORAGE_DTYPES[dtype])
    tiny = torch.finfo(base.dtype).smallest_normal
    base[0, :6] = torch.tensor([-0.0, float("nan"), tiny / 2, -tiny / 4, 1.0, 0.5], dtype=torch.float64)
    left = torch.randint(-(1 << 20), 1 << 20, (_ROWS, _RANK), generator=random).float() * 2.0**-24
    right = torch.randint(-(1 << 20), 1 << 20, (_RANK, _COLUMNS), generator=random).float() * 2.0**-20
    dense = torch.randint(-(1 << 23), 1 << 23, (_ROWS, _COLUMNS), generator=random).float() * 2.0**-30
    for row in (left, dense):
        row[0] = 0.0  # what is not edited keeps its bits
    for column in (right, dense):
        column[:, 0] = 0.0
    weight = EditableWeight(
        layer=0,
        name="w",
        parameter="w",
        orientation=stored,  # type: ignore[arg-type]
        dtype=dtype,
        d_out=_ROWS,
        d_in=_COLUMNS,
        quantum=_QUANTUM,
    )
    return base, [LowRank(left.numpy(), right.numpy()), Dense(dense.numpy())], weight
