"""Running sums of a layer with experts: of each expert, Σ g² k kᵀ over the tokens that reach it.

They are the diagonal blocks of Σ κ κᵀ for the stacked key κ = [g_e k_e]_e (docs/mixtures.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from memit_vc.numerics.statistics.gram import Gram


@dataclass(eq=False)
class ExpertGrams:
    """One `Gram` per expert."""

    grams: tuple[Gram, ...]

    @classmethod
    def zeros(cls, count: int, size: int, *, device: torch.device | str = "cpu") -> ExpertGrams:
        """Empty sums of `count` experts with keys [size]."""
        return cls(tuple(Gram.zeros(size, device=device) for _ in range(count)))

    def add(self, keys: Mapping[int, Tensor]) -> bool:
        """Add g·k [tokens, size] of each expert that was reached; False if they are not finite."""
        return all(self.grams[expert].add(part) for expert, part in keys.items() if len(part))

    def mean(self, count: int) -> Tensor:
        """Of each expert, sum / count of *all* tokens: float32 [E, size, size] on CPU, exactly symmetric."""
        return torch.stack([gram.mean(count) for gram in self.grams])

    def tensors(self) -> dict[str, Tensor]:
        """The sums by name, to be saved; those that are still zero are left out."""
        reached = [(number, gram) for number, gram in enumerate(self.grams) if gram.exponents is not None]
        return {f"{number}.{name}": tensor for number, gram in reached for name, tensor in gram.tensors().items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> bool:
        """Take over saved sums; False if they do not fit."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, _, rest = name.partition(".")
            parts.setdefault(number, {})[rest] = tensor
        known = {str(number): gram for number, gram in enumerate(self.grams)}
        return parts.keys() <= known.keys() and all(known[number].restore(part) for number, part in parts.items())
