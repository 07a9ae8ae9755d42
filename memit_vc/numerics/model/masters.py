"""Weights that the engine may change while it works: float32 masters, and the model's own tensors given back after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.experts import expert_by_expert
from memit_vc.numerics.model.memory import memory_errors


@contextmanager
def masters(adapter: ModelAdapter, layers: Sequence[int]) -> Iterator[Mapping[int, Tensor]]:
    """Float32 working copies of the edited weights, in y = W x orientation as `adapter.weight`, live in the model.

    In a bfloat16 or float16 model the projection computes in float32 while the block lasts (input cast up, output cast
    back). Afterwards, also on error, each module holds its own tensor again: the very same storage, bit-identical.
    """
    with memory_errors(), ExitStack() as stack:
        views: dict[int, Tensor] = {}
        for layer in layers:
            for parameter in (adapter.parameter(layer), adapter.bias(layer)):
                if parameter is not None:
                    stack.callback(_restore, parameter, parameter.data)
                    parameter.data = parameter.data.to(torch.float32, copy=True)
            original, experts = adapter.dtype, adapter.experts(layer)
            if experts is not None and original != torch.float32:
                stack.enter_context(expert_by_expert(experts))
            elif original != torch.float32:
                module: Any = adapter.projection(layer)
                before = module.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:]))
                after = module.register_forward_hook(lambda _, __, output, to=original: output.to(to))
                stack.callback(before.remove)
                stack.callback(after.remove)
            views[layer] = adapter.weight(layer)
        yield views


@contextmanager
def swapped(adapter: ModelAdapter, weights: Mapping[int, Tensor]) -> Iterator[None]:
    """The model with other weights (module orientation, any dtype; cast to the model's) for the length of a block."""
    with memory_errors(), ExitStack() as stack:
        for layer, weight in weights.items():
            parameter = adapter.parameter(layer)
            stack.callback(_restore, parameter, parameter.data)
            parameter.data = weight.to(device=parameter.device, dtype=parameter.dtype)
        yield


@contextmanager
def set_aside(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """As `swapped`, for any parameters, by name. Gives the tensors that stand aside meanwhile."""
    with memory_errors(), ExitStack() as stack:
        aside: dict[str, Tensor] = {}
        for name, weight in weights.items():
            parameter = model.get_parameter(name)
            aside[name] = parameter.data
            stack.callback(_restore, parameter, parameter.data)
            parameter.data = weight.to(device=parameter.device, dtype=parameter.dtype)
        yield aside


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model's modules with stand-ins for their parameters that take no gradients, for the length of a block.

    A stand-in shares its parameter's storage, so a forward costs what it would. The parameters themselves, and so their
    flags, are left alone: another model may hold the same ones, and be searched in another thread.
    """
    own = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.requires_grad
    ]
    standing_in = {id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for _, _, parameter in own}
    try:
        for module, name, parameter in own:
            module._parameters[name] = standing_in[id(parameter)]
        yield
    finally:
        for module, name, parameter in own:
            module._parameters[name] = parameter


def _restore(parameter: Any, data: Tensor) -> None:
    parameter.data = data
