"""What reaches the experts of a layer, token by token: the plain way, for what the engine is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.experts import Experts
from memit_vc.objects import Fact

__all__ = ["Reached", "reached", "subject_end"]


@dataclass(frozen=True)
class Reached:
    """`keys` [tokens, E, d_in] without the gate, zero for experts that were not chosen, and `gates` [tokens, E]."""

    keys: Tensor
    gates: Tensor

    @property
    def stacked(self) -> Tensor:
        """κ [tokens, E · d_in]."""
        return (self.keys * self.gates[..., None]).flatten(1)


def reached(adapter: ModelAdapter, layers: Sequence[int], ids: Sequence[int]) -> tuple[dict[int, Reached], Tensor]:
    """Of each layer, for one text; and the output of the last one's block [tokens, d_model]. All float64."""
    found: dict[int, Reached] = {}
    with ExitStack() as stack:
        caught = {layer: stack.enter_context(_caught(adapter, layer)) for layer in layers}
        out = stack.enter_context(_output(adapter.blocks[layers[-1]]))
        with torch.no_grad():
            adapter.backbone(input_ids=torch.tensor([list(ids)]), use_cache=False)
    for layer, args in caught.items():
        found[layer] = _reached(_experts(adapter, layer), *args[0])
    hidden = out[0][0] if isinstance(out[0], tuple) else out[0]
    return found, hidden[0].double()


def subject_end(adapter: ModelAdapter, fact: Fact) -> tuple[list[int], int]:
    """Ids of the prompt, and the number of the subject's last token."""
    encoded = adapter.tokenizer(fact.prompt, return_offsets_mapping=True)
    end = fact.subject_span[1]
    return encoded["input_ids"], max(i for i, (start, stop) in enumerate(encoded["offset_mapping"]) if start < end)


def _experts(adapter: ModelAdapter, layer: int) -> Experts:
    experts = adapter.experts(layer)
    assert experts is not None
    return experts


def _reached(experts: Experts, hidden: Tensor, index: Tensor, gates: Tensor) -> Reached:
    width = experts.stack.shape[2]
    keys = torch.zeros(len(hidden), experts.count, width, dtype=torch.float64)
    weights = torch.zeros(len(hidden), experts.count, dtype=torch.float64)
    for expert in range(experts.count):
        tokens, places = torch.where(index == expert)
        if len(tokens):
            keys[tokens, expert] = experts._keys(hidden[tokens], expert).double()
            weights[tokens, expert] = gates[tokens, places].double()
    return Reached(keys, weights)


@contextmanager
def _caught(adapter: ModelAdapter, layer: int) -> Iterator[list[tuple[Any, ...]]]:
    found: list[tuple[Any, ...]] = []
    hook = _experts(adapter, layer).module.register_forward_pre_hook(lambda _, args: found.append(args))
    try:
        yield found
    finally:
        hook.remove()


@contextmanager
def _output(block: torch.nn.Module) -> Iterator[list[Any]]:
    found: list[Any] = []
    hook = block.register_forward_hook(lambda _, __, out: found.append(out))
    try:
        yield found
    finally:
        hook.remove()
