"""How far two tensors are apart, and second moments measured the slow way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memit_vc.numerics.model.adapter import ModelAdapter


def relative(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖ in float64, largest over the facts; a fact is a column."""
    found, expected = found.double(), expected.double()
    assert found.shape == expected.shape
    return float(((found - expected).norm(dim=0) / expected.norm(dim=0)).max())


def distance(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖ in float64 of whole tensors."""
    return relative(found.reshape(-1, 1), expected.reshape(-1, 1))


def second_moments(adapter: ModelAdapter, layers: Sequence[int], texts: Sequence[str]) -> dict[int, Tensor]:
    """C [d_in, d_in] float64 of each layer over all tokens of the texts, one text at a time."""
    moments = {}
    for layer in layers:
        caught: list[Tensor] = []
        hook = adapter.projection(layer).register_forward_pre_hook(lambda _, args, into=caught: into.append(args[0]))
        with torch.no_grad():
            for text in texts:
                adapter.model(**adapter.tokenizer(text, return_tensors="pt"))
        hook.remove()
        keys = torch.cat([k.reshape(-1, k.shape[-1]) for k in caught]).double()
        moments[layer] = keys.T @ keys / len(keys)
    return moments
