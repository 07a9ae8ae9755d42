"""The insertion into a mixture of experts, written down from its equations: the full stacked matrix, token by token.

Everything is float64, the whole model included. Shares no code with the engine. Only the router is asked for its own
choice; keys, sums and solve are computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def stacked_keys(model: nn.Module, experts: str, ids: Sequence[int]) -> Tensor:
    """κ [tokens, E · d_in] of a text at the module named `experts`: g_e k_e one behind the other."""
    module: Any = model.get_submodule(experts)
    caught: list[tuple[Any, ...]] = []
    hook = module.register_forward_pre_hook(lambda _, args: caught.append(args))
    with torch.no_grad():
        model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    hook.remove()
    hidden, chosen, gates = caught[0]
    count = module.down_proj.shape[0]
    rows = []
    for x, which, weights in zip(hidden, chosen.tolist(), gates, strict=True):
        parts = {e: g * expert_key(module, x, e) for e, g in zip(which, weights, strict=True)}
        width = next(iter(parts.values())).numel()
        rows.append(torch.cat([parts.get(e, torch.zeros(width).double()) for e in range(count)]))
    return torch.stack(rows).detach()


def expert_key(module: Any, x: Tensor, e: int) -> Tensor:
    """k_e [d_in] of one token: what expert e's down projection gets."""
    if hasattr(module, "gate_up_proj_bias"):  # gpt-oss: interleaved, clamped, transposed
        both = x @ module.gate_up_proj[e] + module.gate_up_proj_bias[e]
        gate, up = both[0::2].clamp(max=module.limit), both[1::2].clamp(-module.limit, module.limit)
        return (up + 1) * gate * torch.sigmoid(module.alpha * gate)
    half = module.gate_up_proj.shape[1] // 2
    gate, up = module.gate_up_proj[e][:half] @ x, module.gate_up_proj[e][half:] @ x
    return gate * torch.sigmoid(gate) * up


def moment(model: nn.Module, experts: str, texts: Sequence[Sequence[int]]) -> Tensor:
    """The full E[κ κᵀ] over all tokens of the texts."""
    keys = torch.cat([stacked_keys(model, experts, ids) for ids in texts])
    return keys.T @ keys / len(keys)


def diagonal_blocks(full: Tensor, count: int) -> Tensor:
    """The same matrix with zeros outside of the experts' own blocks."""
    size = len(full) // count
    return full * torch.block_diag(*[torch.ones(size, size).double()] * count)


def edited(
    model: nn.Module,
    layers: Sequence[int],
    experts: str,
    block: str,
    facts: Sequence[tuple[Sequence[int], int]],
    z: Tensor,
    moments: Mapping[int, Tensor],
    weight: float,
) -> dict[int, Tensor]:
    """Δ [d_out, E · d_in] of each layer, for `facts` (ids, the subject's last token) and targets z [n, d_model]."""
    deltas = {}
    for index, layer in enumerate(layers):
        name = experts.format(layer)
        keys = torch.stack([stacked_keys(model, name, ids)[at] for ids, at in facts], dim=1)
        now = torch.stack([_output(model, block.format(layers[-1]), ids)[at] for ids, at in facts], dim=1)
        residual = (z.double().T - now) / (len(layers) - index)
        a = torch.linalg.solve(weight * moments[layer] + keys @ keys.T, keys)
        deltas[layer] = residual @ a.T
        _add(model.get_submodule(name), deltas[layer])
    return deltas


def _add(module: Any, delta: Tensor) -> None:
    for e, part in enumerate(delta.chunk(module.down_proj.shape[0], dim=1)):
        turned = part.T if hasattr(module, "down_proj_bias") else part
        module.down_proj.data[e] += turned


def _output(model: nn.Module, block: str, ids: Sequence[int]) -> Tensor:
    caught: list[Any] = []
    hook = model.get_submodule(block).register_forward_hook(lambda _, __, output: caught.append(output))
    with torch.no_grad():
        model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    hook.remove()
    hidden: Tensor = caught[0][0] if isinstance(caught[0], tuple) else caught[0]
    return hidden[0]
