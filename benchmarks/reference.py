"""The reference's way of working, written down plainly (kmeng01/memit, EasyEdit's MEMIT): what the engine is measured
against. It gives the same numbers, to rounding.

z: fact by fact; all of a fact's texts, padded, through the whole model at every step, logits of the whole vocabulary at
every position. Statistics: a pass over the text for every layer. Solve: one dense float64 system per layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.objects import Fact
from tests.support.oracle import Request, Setting
from tests.support.oracle.oracle import head, located, teacher_forced

__all__ = ["second_moment", "setting_of", "solve", "z_of"]

_TEXTS, _TOKENS = 100, 3072
"""Texts that are sorted by length together, and tokens of a batch: the reference's 3 · 1024 for a context of 1024."""


def setting_of(hparams: MEMITHyperParams, templates: Sequence[Sequence[str]], *, stop_below: float) -> Setting:
    return Setting(
        layers=hparams.layers,
        block=hparams.layer_module_tmp,
        projection=hparams.rewrite_module_tmp,
        norm=hparams.ln_f_module,
        loss_layer=hparams.v_loss_layer,
        steps=hparams.v_num_grad_steps,
        lr=hparams.v_lr,
        decay=hparams.v_weight_decay,
        clamp=hparams.clamp_norm_factor,
        kl=hparams.kl_factor,
        weight=hparams.mom2_update_weight,
        templates=templates,
        stop_below=stop_below,
    )


def z_of(adapter: ModelAdapter, fact: Fact, setting: Setting) -> tuple[Tensor, int]:
    """z [d_model] float32 of one fact, and how often its loss was evaluated."""
    model, tokenizer = adapter.model.eval(), adapter.tokenizer
    request = Request(fact.prompt, fact.subject_span[0], fact.subject, fact.target)
    rows = [teacher_forced(tokenizer, request, text) for group in setting.templates for text in group]
    essence, essence_at = located(tokenizer, f"{request.subject} is a", len(request.subject))
    ids, mask = _padded([*(row[0] for row in rows), essence], adapter.device)
    places = torch.tensor([*(row[1] for row in rows), essence_at], device=ids.device)
    labels = torch.full((len(rows), ids.shape[1]), -100, device=ids.device)
    for index, (_, _, positions, wanted) in enumerate(rows):
        labels[index, positions] = torch.tensor(wanted, device=ids.device)
    edited = model.get_submodule(setting.block.format(setting.layers[-1]))
    last = model.get_submodule(setting.block.format(setting.loss_layer))
    delta: Tensor | None = None
    start: Tensor | None = None
    plain: Tensor | None = None
    caught: list[Tensor] = []

    def change(_: nn.Module, __: Any, output: Any) -> Any:
        nonlocal delta, start
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        if delta is None or start is None:
            start = hidden[0, places[0]].detach().clone().float()
            delta = torch.zeros_like(start, requires_grad=True)
        index = torch.arange(len(places), device=hidden.device)
        hidden[index, places] = hidden[index, places] + delta.to(hidden)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def catch(_: nn.Module, __: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    hooks = [edited.register_forward_hook(change), last.register_forward_hook(catch)]
    optimizer: torch.optim.Adam | None = None
    try:
        for step in range(1, setting.steps + 1):
            caught.clear()
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            assert delta is not None
            assert start is not None
            optimizer = optimizer or torch.optim.Adam([delta], lr=setting.lr)
            log_p = head(model, setting, caught[-1][:-1]).float().log_softmax(-1)
            known = labels.ne(-100)
            taken = log_p.gather(2, labels.clamp(min=0)[..., None])[..., 0]
            nll = -((taken * known).sum(1) / known.sum(1)).mean()
            essence_p = logits[-1, essence_at].float().log_softmax(-1)
            plain = essence_p.detach().clone() if plain is None else plain
            kl = (essence_p.exp() * (essence_p - plain)).sum()
            loss = nll + setting.kl * kl + setting.decay * delta.norm() / start.norm() ** 2
            if loss.item() < setting.stop_below or step == setting.steps:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                longest = setting.clamp * start.norm()
                if delta.norm() > longest:
                    delta.mul_(longest / delta.norm())
    finally:
        for hook in hooks:
            hook.remove()
    assert delta is not None
    assert start is not None
    return start + delta.detach(), step


class _StopError(Exception):
    pass


def second_moment(adapter: ModelAdapter, rows: Sequence[Sequence[int]], layer: int) -> Tensor:
    """C [d_in, d_in] float32 of one layer over all tokens of the rows: a pass of its own, stopped at the layer."""
    _, d_in = adapter.dimensions(layer)
    total = torch.zeros(d_in, d_in, device=adapter.device)
    count = 0
    caught: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Any, ...]) -> None:
        caught.append(args[0])
        raise _StopError

    hook = adapter.projection(layer).register_forward_pre_hook(stop)
    try:
        for batch in _batches(rows):
            ids, mask = _padded(batch, adapter.device)
            caught.clear()
            try:
                with torch.no_grad():
                    adapter.model(input_ids=ids, attention_mask=mask, use_cache=False)
            except _StopError:
                pass
            keys = caught[0].reshape(-1, d_in)[mask.reshape(-1).bool()].float()
            total += keys.T @ keys
            count += len(keys)
    finally:
        hook.remove()
    return total.cpu() / count


def solve(moment: Tensor, weight: float, keys: Tensor) -> Tensor:
    """(λC + K Kᵀ)⁻¹ K, float64 [d_in, n]: a dense system, as the reference solves it."""
    return torch.linalg.solve(weight * moment.double() + keys @ keys.T, keys)


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    for start in range(0, len(rows), _TEXTS):
        batch: list[Sequence[int]] = []
        for row in sorted(rows[start : start + _TEXTS], key=len, reverse=True):
            if batch and (len(batch) + 1) * len(batch[0]) > _TOKENS:
                yield batch
                batch = []
            batch.append(row)
        yield batch


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(list(row))
        mask[index, : len(row)] = 1
    return ids.to(device), mask.to(device)
