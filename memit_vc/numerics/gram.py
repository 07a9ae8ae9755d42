"""A running sum of k kᵀ: float32 products of short runs of tokens, float64 sums, upper triangle only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["Gram"]

_TOKENS = 2048
"""Tokens per product: few enough that float32 keeps 1e-6 of a long sum, many enough to keep the product fast."""
_BLOCKS = 8
"""Blocks per side: 36 of 64 products are computed, the others follow by symmetry."""


@dataclass(frozen=True, eq=False)
class Gram:
    """Σ k kᵀ over all keys added so far; `blocks[i, j]` with i ≤ j is a float64 tile of the upper triangle."""

    size: int
    edges: tuple[int, ...]
    blocks: Mapping[tuple[int, int], Tensor]

    @classmethod
    def zeros(cls, size: int, *, device: torch.device | str = "cpu") -> Gram:
        """An empty sum of keys [size]; on a device without float64 the sums are kept on the CPU."""
        if torch.device(device).type == "mps":
            device = "cpu"
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
        """Add keys [tokens, size]; False where they are not finite (the sum is then spoilt)."""
        if not self.blocks:
            return True
        device = next(iter(self.blocks.values())).device
        if device.type != "cpu":
            keys = keys.to(device)  # keys that another process computed
        keys = keys if keys.dtype == torch.float64 else keys.float()
        for part in torch.split(keys, _TOKENS):
            slices = [part[:, a:b] for a, b in pairwise(self.edges)]
            for (i, j), block in self.blocks.items():
                block.add_((slices[i].T @ slices[j]).to(block.device))
        return self.finite()

    def finite(self) -> bool:
        """No diagonal entry overflowed; a sum of squares spoils first there."""
        return all(bool(block.diagonal().isfinite().all()) for (i, j), block in self.blocks.items() if i == j)

    def part(self, rank: int, size: int) -> Gram:
        """Tiles `rank`, `rank` + `size`, … of this sum, sharing its memory: `add` then works on them alone."""
        return Gram(self.size, self.edges, dict(list(self.blocks.items())[rank::size]))

    def mean(self, count: int) -> Tensor:
        """Sum / count, float32 [size, size] on CPU, exactly symmetric."""
        full = torch.empty(self.size, self.size, dtype=torch.float32)
        for (i, j), block in self.blocks.items():
            tile = (block / count).float().cpu()
            rows, columns = slice(*self.edges[i : i + 2]), slice(*self.edges[j : j + 2])
            if i == j:
                tile = tile.triu() + tile.triu(1).T
            full[rows, columns] = tile
            full[columns, rows] = tile.T
        return full

    def tensors(self) -> dict[str, Tensor]:
        """The sums by name, to be saved."""
        return {f"{i}.{j}": block for (i, j), block in self.blocks.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> bool:
        """Take over saved sums; False, and nothing changed, where they do not fit."""
        expected = self.tensors()
        if set(tensors) != set(expected):
            return False
        if any(tensors[n].shape != b.shape or tensors[n].dtype != b.dtype for n, b in expected.items()):
            return False
        for name, block in expected.items():
            block.copy_(tensors[name])
        return True
