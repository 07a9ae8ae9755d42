"""The experts of one layer: their down projections, which tokens reach them, and with what keys.

transformers holds the experts of a layer as stacked parameters [E, …]. At a token they give Σ g_e W_e k_e over the
experts that the router chose. With the stacked key κ = [g_e k_e]_e, zero for the others, and W = [W_1 … W_E] that is
W κ: one matrix and one key (docs/mixtures.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from memit_vc.errors import UnsupportedModelError

OnKeys: TypeAlias = Callable[[int, Tensor, Tensor], None]
"""Called with an expert, the tokens [m] that reach it, and their part g·k of the stacked key, float32 [m, d_in]."""


@dataclass(frozen=True)
class Experts:
    """A module of transformers that holds the experts of a layer."""

    module: Any

    @classmethod
    def of(cls, module: nn.Module, where: str) -> Experts:
        """UnsupportedModelError for a module of another make, whose keys would be guessed."""
        down: Any = getattr(module, "down_proj", None)
        stacked = isinstance(down, nn.Parameter) and down.ndim == 3
        gated = getattr(module, "has_gate", False) and hasattr(module, "_apply_gate")
        if not stacked or not gated or getattr(module, "has_post_expert_norm", False):
            raise UnsupportedModelError(
                f"{where} is a {type(module).__name__}, whose experts are not laid out as transformers' own are",
                hint="Use a model whose experts have a gated projection and one stacked `down_proj`. "
                "The first releases of transformers 5 lay experts out in another way: update transformers.",
            )
        if not down.is_floating_point():
            raise UnsupportedModelError(
                f"{where}.down_proj is stored as {down.dtype}: an update of a few bits of each weight cannot be stored",
                hint="Load the model in float32, bfloat16 or float16.",
            )
        return cls(module)

    @property
    def orientation(self) -> Literal["out_in", "in_out"]:
        """Of one expert's matrix in the stack, as its class declares it."""
        return "in_out" if self.module.is_transposed else "out_in"

    @property
    def count(self) -> int:
        return int(self.module.down_proj.shape[0])

    @property
    def stack(self) -> Tensor:
        """The projections in y = W x orientation, [d_out, E, d_in]: a view, sharing memory with the model."""
        weight: Tensor = self.module.down_proj.data
        return weight.permute(2, 0, 1) if self.orientation == "in_out" else weight.permute(1, 0, 2)

    def forward(self, hidden: Tensor, index: Tensor, gates: Tensor, *, on_keys: OnKeys | None = None) -> Tensor:
        """The module's output [tokens, d_model] for `hidden` [tokens, d_model], expert after expert.

        `index` and `gates` [tokens, k] are the router's choice. The projections compute in their own dtype, which may
        be wider than the model's.
        """
        module, bias = self.module, getattr(self.module, "down_proj_bias", None)
        total = torch.zeros(hidden.shape, dtype=module.down_proj.dtype, device=hidden.device)
        for expert in range(self.count):
            tokens, places = torch.where(index == expert)
            if not len(tokens):
                continue
            gate, keys = gates[tokens, places, None], self._keys(hidden[tokens], expert)
            if on_keys is not None:
                on_keys(expert, tokens, gate.float() * keys.float())
            part = self._linear(keys.to(total.dtype), module.down_proj[expert], None if bias is None else bias[expert])
            total = total.index_add(0, tokens, (part * gate).to(total.dtype))
        return total.to(hidden.dtype)

    def _keys(self, hidden: Tensor, expert: int) -> Tensor:
        bias = getattr(self.module, "gate_up_proj_bias", None)
        both = self._linear(hidden, self.module.gate_up_proj[expert], None if bias is None else bias[expert])
        keys: Tensor = self.module._apply_gate(both)
        return keys

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        bias = None if bias is None else bias.to(weight.dtype)
        return nn.functional.linear(x, weight.T if self.orientation == "in_out" else weight, bias)


@contextmanager
def expert_by_expert(experts: Experts, on_keys: OnKeys | None = None) -> Iterator[None]:
    """The module computes by `Experts.forward` for the length of a block, whatever implementation it is set to."""
    own = vars(experts.module).get("forward")
    experts.module.forward = partial(experts.forward, on_keys=on_keys)
    try:
        yield
    finally:
        if own is None:
            del experts.module.forward
        else:
            experts.module.forward = own


class StackedKeys:
    """The stacked keys of some tokens, gathered while an `Experts` computes; call it as `on_keys`.

    `places` [rows] are the tokens' numbers in the flattened batch; a token may be named more than once.
    """

    def __init__(self, places: Tensor, count: int, d_in: int) -> None:
        self._places = places
        self.found = torch.zeros(len(places), count, d_in, dtype=torch.float64)

    def __call__(self, expert: int, tokens: Tensor, keys: Tensor) -> None:
        where = {int(token): number for number, token in enumerate(tokens)}
        hits = [(row, where[place]) for row, place in enumerate(self._places.tolist()) if place in where]
        if hits:
            rows, numbers = (list(part) for part in zip(*hits, strict=True))
            self.found[rows, expert] = keys[numbers].cpu().double()

    @property
    def rows(self) -> Tensor:
        """[rows, E · d_in] float64."""
        return self.found.flatten(1)
