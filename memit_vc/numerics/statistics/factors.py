"""λC factored once per layer and λ: the Cholesky factor that every solve of `solve.py` starts from.

Float64 throughout: λC of a real model has a condition number near 1e8, which leaves nothing of a float32 factor.
Of a layer with experts C is block-diagonal, one block per expert (docs/mixtures.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from memit_vc.errors import EngineError, IntegrityError
from memit_vc.numerics.statistics.tensorfile import read_tensors, write_tensors

RIDGES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Ridges tried in turn, as shares of the mean diagonal of λC, where λC alone is not positive definite."""

_TENSOR = "lower"


@dataclass(frozen=True, eq=False)
class Factor:
    """λC + ridge·I = L Lᵀ. `lower` is L, float64 [d_in, d_in]; `ridge` is 0.0 if λC was positive definite."""

    lower: Tensor
    ridge: float = 0.0

    @property
    def size(self) -> int:
        """d_in."""
        return int(self.lower.shape[0])

    @property
    def numel(self) -> int:
        """Numbers that it holds."""
        return self.lower.numel()

    def to(self, device: torch.device) -> Factor:
        """The same factor on a device; itself if it is there."""
        return self if self.lower.device == device else Factor(self.lower.to(device), self.ridge)

    def scaled(self, share: float) -> Factor:
        """The factor for `share` · λ, ridge included."""
        return Factor(self.lower * math.sqrt(share), self.ridge * share)

    def solve(self, x: Tensor) -> Tensor:
        """(λC + ridge·I)⁻¹ x, float64 [d_in, m], for x [d_in, m] of any floating dtype, on the factor's device."""
        if x.ndim != 2 or x.shape[0] != self.size:
            raise _misfit(x, self.size)
        # row by row, as the blocks of a mixture are put together: how a product rounds depends on the layout
        return torch.cholesky_solve(x.to(self.lower), self.lower).contiguous()

    def whiten(self, x: Tensor) -> Tensor:
        """L⁻¹ x, float64: the products of what it gives are those of x in the metric of (λC + ridge·I)⁻¹."""
        white: Tensor = torch.linalg.solve_triangular(self.lower, x, upper=False)
        return white

    def matrix(self) -> Tensor:
        """λC + ridge·I, float64 [d_in, d_in], multiplied out again: equal to what was factored to rounding."""
        return self.lower @ self.lower.T

    def save(self, path: Path) -> None:
        """Write the lower triangle, row by row without the zeros (half the bytes). StorageError."""
        packed = torch.cat([row[: index + 1] for index, row in enumerate(self.lower.cpu())])
        write_tensors(path, {_TENSOR: packed}, {"kind": "factor", "size": self.size, "ridge": self.ridge})

    @classmethod
    def load(cls, path: Path) -> Factor:
        """Read what `save` wrote. FileNotFoundError; IntegrityError for a file that holds no usable factor."""
        tensors, metadata = read_tensors(path)
        packed, size, ridge = tensors.get(_TENSOR), metadata.get("size"), metadata.get("ridge")
        if (
            packed is None
            or packed.dtype != torch.float64
            or not isinstance(size, int)
            or not isinstance(ridge, int | float)
            or packed.shape != (size * (size + 1) // 2,)
        ):
            raise IntegrityError(f"{path}: does not hold a factor", hint="Delete it; it is computed again when needed.")
        lower = torch.zeros(size, size, dtype=torch.float64)
        for row, part in zip(lower, torch.split(packed, list(range(1, size + 1))), strict=True):
            row[: len(part)] = part
        if not bool(packed.isfinite().all()) or not bool((lower.diagonal() > 0).all()):
            raise IntegrityError(f"{path}: holds a factor with impossible values", hint="Delete it; it is recomputed.")
        return cls(lower, float(ridge))


@dataclass(frozen=True, eq=False)
class BlockFactor:
    """The factors of a layer with experts: λC is block-diagonal, block e is expert e's."""

    blocks: tuple[Factor, ...]

    @property
    def size(self) -> int:
        """Of the stacked key."""
        return sum(block.size for block in self.blocks)

    @property
    def ridge(self) -> float:
        """The largest of the experts'."""
        return max(block.ridge for block in self.blocks)

    @property
    def ridges(self) -> int:
        """How many experts needed one."""
        return sum(block.ridge > 0 for block in self.blocks)

    @property
    def numel(self) -> int:
        """Numbers that it holds."""
        return sum(block.numel for block in self.blocks)

    def to(self, device: torch.device) -> BlockFactor:
        """The same on a device."""
        return BlockFactor(tuple(block.to(device) for block in self.blocks))

    def scaled(self, share: float) -> BlockFactor:
        """The factors for `share` · λ."""
        return BlockFactor(tuple(block.scaled(share) for block in self.blocks))

    def solve(self, x: Tensor) -> Tensor:
        """(λC + ridges)⁻¹ x, float64, for stacked x [Σ d_in, m]. An expert that no column reaches costs nothing."""
        if x.ndim != 2 or x.shape[0] != self.size:
            raise _misfit(x, self.size)
        parts = torch.split(x, [block.size for block in self.blocks])
        return torch.cat(
            [b.solve(p) if bool(p.any()) else p.to(b.lower) for b, p in zip(self.blocks, parts, strict=True)]
        )

    def whiten(self, x: Tensor) -> Tensor:
        """As `Factor.whiten`, block by block."""
        parts = torch.split(x, [block.size for block in self.blocks])
        return torch.cat([block.whiten(part) for block, part in zip(self.blocks, parts, strict=True)])

    def matrix(self) -> Tensor:
        """λC + ridges, float64 [Σ d_in, Σ d_in]: for layers that are small enough to hold it."""
        lower, start = self.blocks[0].lower, 0
        whole = torch.zeros(self.size, self.size, dtype=lower.dtype, device=lower.device)
        for block in self.blocks:
            stop = start + block.size
            whole[start:stop, start:stop] = block.matrix()
            start = stop
        return whole


def factorise_experts(moments: Tensor, weight: float) -> BlockFactor:
    """Factor λC_e of each expert, for `moments` [E, d_in, d_in].

    An expert that too few tokens reach, whose block is not positive definite, gets the largest of `RIDGES` as a share
    of the mean diagonal of all experts. A smaller one would make it so cheap to change that every edit went there.
    Errors as for `factorise`.
    """
    scarce = RIDGES[-1] * weight * float(moments.diagonal(dim1=1, dim2=2).double().mean())

    def block(moment: Tensor) -> Factor:
        try:
            return factorise(moment, weight, ridge=0.0)
        except EngineError:
            return factorise(moment, weight, ridge=scarce)

    return BlockFactor(tuple(map(block, moments)))


def factorise(moment: Tensor, weight: float, *, ridge: float | None = None) -> Factor:
    """Factor λC, for C = `moment` [d_in, d_in] float32 or float64 and λ = `weight`.

    Where λC is not positive definite (fewer tokens than d_in, dead inputs), the smallest ridge of `RIDGES` that makes
    it so is added and recorded. `ridge` (absolute, as recorded in `Factor.ridge`) asks for exactly that one.
    EngineError for a moment that is not square, not finite, zero or far from positive definite, and for a λ ≤ 0.
    """
    if moment.ndim != 2 or moment.shape[0] != moment.shape[1] or not moment.shape[0]:
        raise EngineError(f"a second moment must be square, not of shape {tuple(moment.shape)}")
    if not (0 < weight < float("inf")):
        raise EngineError(f"mom2_update_weight is {weight}", hint="Give a positive number.")
    matrix = moment.double()
    matrix = (matrix + matrix.T).mul_(weight / 2)
    if not bool(matrix.isfinite().all()):
        raise EngineError(
            "the second moment holds values that are not finite",
            hint="Compute the statistics again in float32: the activations overflowed.",
        )
    diagonal = matrix.diagonal()
    mean, largest = float(diagonal.mean()), float(diagonal.max())
    # a pivot this small is rounding error: the factor would exist by luck only
    smallest = matrix.shape[0] * torch.finfo(torch.float64).eps * largest
    for added in [ridge] if ridge is not None else [0.0, *(share * mean for share in RIDGES)]:
        shifted = matrix if added == 0.0 else matrix + added * torch.eye(len(matrix)).to(matrix)
        lower, info = torch.linalg.cholesky_ex(shifted)
        if not int(info) and float(lower.diagonal().min()) ** 2 > smallest:
            return Factor(lower, added)
    tried = f"a ridge of {ridge:g}" if ridge is not None else f"a ridge of {RIDGES[-1]:g} of its mean diagonal"
    raise EngineError(
        f"the second moment is not positive definite, even with {tried} (mean diagonal {mean / weight:g})",
        hint="Compute the statistics again from more text: `memitvc stats --corpus FILE`, or with more --tokens.",
    )


def _misfit(x: Tensor, size: int) -> EngineError:
    return EngineError(
        f"keys of shape {tuple(x.shape)} do not fit statistics of {size} inputs",
        hint="Compute them again with `memitvc stats`: these belong to another model or layer.",
    )
