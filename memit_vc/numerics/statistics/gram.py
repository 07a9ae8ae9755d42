"""A running sum of k kᵀ: float32 products of short runs of tokens, upper triangle only, summed exactly.

Keys are scaled by a power of two for each input, so that the first batch's have a root mean square near 2^`_FINE`; each
product of a run is rounded to a whole number, and float64 adds whole numbers below 2^53 without rounding. So neither
the order of the runs nor who adds them can change a bit of the sum. The grid is finer than float32's rounding of a
product, and the sum of a billion tokens is below 2^53. (Keys that grow far beyond the first batch's are
summed with float64's rounding: as precisely, but not in any order.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from memit_vc.numerics.model.devices import float64_device

_TOKENS = 2048
"""Tokens per product: few enough that float32 keeps 1e-6 of a long sum, many enough to keep the product fast."""
_BLOCKS = 8
"""Blocks per side: 36 of 64 products are computed, the others follow by symmetry."""
_FINE = 11
_EXPONENTS = "exponents"


@dataclass(eq=False)
class Gram:
    """Σ k kᵀ over all keys added so far; `blocks[i, j]` with i ≤ j is a tile of the upper triangle, whole numbers in
    float64, in units of 2^−(exponents[row] + exponents[column]).
    """

    size: int
    edges: tuple[int, ...]
    blocks: Mapping[tuple[int, int], Tensor]
    exponents: Tensor | None = field(default=None)
    """Of the scale of each input, int32 [size]; set by the first keys that are added, if not before."""

    @classmethod
    def zeros(cls, size: int, *, device: torch.device | str = "cpu") -> Gram:
        """An empty sum of keys [size]; on a device without float64 the sums are kept on the CPU."""
        device = float64_device(torch.device(device))
        step = max(128, -(-size // _BLOCKS))
        edges = (*range(0, size, step), size)
        widths = [b - a for a, b in pairwise(edges)]
        blocks = {
            (i, j): torch.zeros(widths[i], widths[j], dtype=torch.float64, device=device)
            for i in range(len(widths))
            for j in range(i, len(widths))
        }
        return cls(size, edges, blocks)

    def add(self, keys: Tensor) -> bool:
        """Add keys [tokens, size]; False if they are not finite (the sum is then spoilt)."""
        device = next(iter(self.blocks.values())).device
        if device.type != "cpu":
            keys = keys.to(device)
        keys = keys if keys.dtype == torch.float64 else keys.float()
        if self.exponents is None:
            if not bool(keys.isfinite().all()):
                return False
            self.exponents = _exponents(keys)
        scale = _powers(self.exponents).to(keys)
        for part in torch.split(keys, _TOKENS):
            scaled = part * scale
            slices = [scaled[:, a:b] for a, b in pairwise(self.edges)]
            for (i, j), block in self.blocks.items():
                block.add_((slices[i].T @ slices[j]).round_().to(block.device))
        return self.finite()

    def finite(self) -> bool:
        """No diagonal entry overflowed; a sum of squares spoils first there."""
        return all(bool(block.diagonal().isfinite().all()) for (i, j), block in self.blocks.items() if i == j)

    def mean(self, count: int) -> Tensor:
        """Sum / count, float32 [size, size] on CPU, exactly symmetric."""
        full = torch.empty(self.size, self.size, dtype=torch.float32)
        exponents = torch.zeros(self.size, dtype=torch.int32) if self.exponents is None else self.exponents
        unit = _powers(-exponents)
        for (i, j), block in self.blocks.items():
            rows, columns = slice(*self.edges[i : i + 2]), slice(*self.edges[j : j + 2])
            tile = (block.cpu() * unit[rows, None] * unit[columns] / count).float()
            if i == j:
                tile = tile.triu() + tile.triu(1).T
            full[rows, columns] = tile
            full[columns, rows] = tile.T
        return full

    def tensors(self) -> dict[str, Tensor]:
        """The sums and their scale by name, to be saved."""
        scale = {} if self.exponents is None else {_EXPONENTS: self.exponents}
        return {f"{i}.{j}": block for (i, j), block in self.blocks.items()} | scale

    def restore(self, tensors: Mapping[str, Tensor]) -> bool:
        """Take over saved sums; False, and nothing changed, if they do not fit."""
        expected = {f"{i}.{j}": block for (i, j), block in self.blocks.items()}
        exponents = tensors.get(_EXPONENTS)
        if set(tensors) != {*expected, _EXPONENTS} or exponents is None:
            return False
        if exponents.shape != (self.size,) or exponents.dtype != torch.int32:
            return False
        if any(tensors[n].shape != b.shape or tensors[n].dtype != b.dtype for n, b in expected.items()):
            return False
        for name, block in expected.items():
            block.copy_(tensors[name])
        self.exponents = exponents.clone()
        return True


def _powers(exponents: Tensor) -> Tensor:
    """2^exponent, float64, to the bit: torch's own ldexp goes through `pow`, which may be off by one."""
    return torch.from_numpy(np.ldexp(1.0, exponents.numpy()))


def _exponents(keys: Tensor) -> Tensor:
    """Of a scale of each input that brings these keys' root mean square to about 2^`_FINE`; inputs that are zero here
    get the middle one of the others.
    """
    spread = keys.to(float64_device(keys.device)).double().square().mean(dim=0).sqrt().cpu()
    found = _FINE - torch.frexp(spread).exponent.to(torch.int32)
    alive = spread > 0
    if not bool(alive.all()):
        found[~alive] = found[alive].median() if bool(alive.any()) else _FINE
    return found
