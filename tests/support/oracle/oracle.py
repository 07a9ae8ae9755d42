"""MEMIT written down from its equations, as plainly as possible: one fact at a time, the whole model, full logits.

Meng et al. 2023 (arXiv:2210.07229), section 4 and algorithm 1. Shares no code with the engine: positions, hooks, loss,
optimiser loop and solve are its own, so that agreement means something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Request:
    """One fact; `start` is the index of the subject's first character in the prompt."""

    prompt: str
    start: int
    subject: str
    target: str


@dataclass(frozen=True)
class Setting:
    """Module names of the model and the numbers of the algorithm; `templates` are groups of texts with one "{}"."""

    layers: Sequence[int]
    block: str
    projection: str
    norm: str | None
    loss_layer: int
    steps: int
    lr: float
    decay: float
    clamp: float
    kl: float
    weight: float
    templates: Sequence[Sequence[str]]
    stop_below: float = 0.05


@dataclass(frozen=True)
class Result:
    """z [n, d_model]; per layer keys [d_in, n], adj [d_in, n], resid [d_out, n] float64; the edited weights."""

    z: Tensor
    steps: list[int]
    keys: Mapping[int, Tensor]
    adj: Mapping[int, Tensor]
    resid: Mapping[int, Tensor]
    weights: Mapping[int, Tensor]


def memit(
    model: nn.Module, tokenizer: Any, requests: Sequence[Request], setting: Setting, moments: Mapping[int, Tensor]
) -> Result:
    """The whole algorithm; `moments[layer]` is C [d_in, d_in]. The model's weights are put back."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = [find_z(model, tokenizer, request, setting) for request in requests]
    z = torch.stack([value for value, _ in found])
    projections = {layer: model.get_submodule(setting.projection.format(layer)) for layer in setting.layers}
    originals = {layer: module.weight.detach().clone() for layer, module in projections.items()}
    keys, adj, resid, weights = {}, {}, {}, {}
    try:
        for index, layer in enumerate(setting.layers):
            k = torch.stack([key_of(model, tokenizer, request, setting, layer) for request in requests], dim=1).double()
            now = torch.stack([output_of(model, tokenizer, request, setting) for request in requests], dim=1)
            r = (z.T - now).double() / (len(setting.layers) - index)
            a = torch.linalg.solve(setting.weight * moments[layer].double() + k @ k.T, k)
            delta = r @ a.T
            module = projections[layer]
            stored_in_out = type(module).__name__ == "Conv1D"
            module.weight.data += (delta.T if stored_in_out else delta).float()
            keys[layer], adj[layer], resid[layer] = k, a, r
            weights[layer] = module.weight.detach().clone()
    finally:
        for layer, module in projections.items():
            module.weight.data.copy_(originals[layer])
    return Result(z, [steps for _, steps in found], keys, adj, resid, weights)


def find_z(model: nn.Module, tokenizer: Any, request: Request, setting: Setting) -> tuple[Tensor, int]:
    """z [d_model] of one fact, and how often its loss was evaluated."""
    block = model.get_submodule(setting.block.format(setting.layers[-1]))
    loss_block = model.get_submodule(setting.block.format(setting.loss_layer))
    rows = [teacher_forced(tokenizer, request, text) for group in setting.templates for text in group]
    subject_ids, subject_at = located(tokenizer, f"{request.subject} is a", len(request.subject))
    with torch.no_grad():
        h = block_output(model, block, rows[0][0])[rows[0][1]].clone()
        plain = model(input_ids=torch.tensor([subject_ids]), use_cache=False).logits[0, subject_at].log_softmax(-1)
    delta = torch.zeros_like(h, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=setting.lr)
    for step in range(1, setting.steps + 1):
        nll = torch.zeros(())
        for ids, at, places, labels in rows:
            with added(block, at, delta):
                log_p = head(model, setting, block_output(model, loss_block, ids)).log_softmax(-1)
            nll = nll - torch.stack([log_p[p, t] for p, t in zip(places, labels, strict=True)]).mean() / len(rows)
        with added(block, subject_at, delta):
            log_p = model(input_ids=torch.tensor([subject_ids]), use_cache=False).logits[0, subject_at].log_softmax(-1)
        kl = (log_p.exp() * (log_p - plain)).sum()
        loss = nll + setting.kl * kl + setting.decay * delta.norm() / h.norm() ** 2
        if loss.item() < setting.stop_below or step == setting.steps:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            longest = setting.clamp * h.norm()
            if delta.norm() > longest:
                delta.mul_(longest / delta.norm())
    return h + delta.detach(), step


def key_of(model: nn.Module, tokenizer: Any, request: Request, setting: Setting, layer: int) -> Tensor:
    """k [d_in]: input of the projection at the subject's last token; mean over groups of the mean within a group."""
    groups = []
    for group in setting.templates:
        keys = []
        for text in group:
            ids, at = located(tokenizer, *filled(request, text))
            caught: list[Tensor] = []
            module = model.get_submodule(setting.projection.format(layer))
            hook = module.register_forward_pre_hook(lambda _, args, into=caught: into.append(args[0]))
            with torch.no_grad():
                model(input_ids=torch.tensor([ids]), use_cache=False)
            hook.remove()
            keys.append(caught[0].reshape(len(ids), -1)[at])
        groups.append(torch.stack(keys).mean(0))
    return torch.stack(groups).mean(0)


def output_of(model: nn.Module, tokenizer: Any, request: Request, setting: Setting) -> Tensor:
    """Output [d_model] of the last edited block at the subject's last token of the plain prompt."""
    ids, at = located(tokenizer, *filled(request, "{}"))
    with torch.no_grad():
        return block_output(model, model.get_submodule(setting.block.format(setting.layers[-1])), ids)[at]


def filled(request: Request, template: str) -> tuple[str, int]:
    """The template with the prompt in it, and where in it the subject ends."""
    before, after = template.split("{}")
    return before + request.prompt + after, len(before) + request.start + len(request.subject)


def located(tokenizer: Any, text: str, end: int) -> tuple[list[int], int]:
    """Token ids of a text, and the index of the token that holds its character `end` − 1."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    holding = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end <= b]
    return encoded["input_ids"], holding[-1]


def teacher_forced(tokenizer: Any, request: Request, template: str) -> tuple[list[int], int, list[int], list[int]]:
    """Ids without the last, the subject's last token, and the places where each label is to be predicted."""
    text, end = filled(request, template)
    encoded = tokenizer(f"{text} {request.target}", return_offsets_mapping=True)
    ids = encoded["input_ids"]
    while ids[-1] in tokenizer.all_special_ids:  # an end-of-text that the tokenizer adds is no part of the target
        ids = ids[:-1]
    at = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end <= b][-1]
    first = next(i for i, (_, b) in enumerate(encoded["offset_mapping"]) if b > len(text))
    return ids[:-1], at, list(range(first - 1, len(ids) - 1)), ids[first:]


def head(model: nn.Module, setting: Setting, hidden: Tensor) -> Tensor:
    """Logits of the hidden states [tokens, d_model] of a block: final norm, output embeddings, soft cap if any."""
    if setting.norm is not None:
        hidden = model.get_submodule(setting.norm)(hidden)
    logits = model.get_output_embeddings()(hidden)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def block_output(model: nn.Module, block: nn.Module, ids: list[int]) -> Tensor:
    """Hidden states [tokens, d_model] that a block gives out when the whole model runs."""
    caught: list[Tensor] = []

    def catch(_: nn.Module, __: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    hook = block.register_forward_hook(catch)
    model(input_ids=torch.tensor([ids]), use_cache=False)
    hook.remove()
    return caught[0][0]


@contextmanager
def added(block: nn.Module, at: int, delta: Tensor) -> Iterator[None]:
    """δ added to what the block gives out at token `at`."""

    def change(_: nn.Module, __: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, at] = hidden[:, at] + delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    hook = block.register_forward_hook(change)
    try:
        yield
    finally:
        hook.remove()
