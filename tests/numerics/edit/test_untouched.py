"""The model is given back as it was: bytes, storage, flags, hooks. Two models in two threads stay apart."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memit_vc.numerics.edit.engine import Context, Edit, compute_edit, improve_edit
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.masters import swapped
from memit_vc.numerics.statistics.factors import Factor, factorise
from tests.support.measure import second_moments
from tests.support.models import SENTENCES, facts, hparams_for, load, tiny

TEMPLATES = parse_templates([["{}"], ["The first report. {}"]])


class InjectedError(Exception):
    """What the tests throw."""


def snapshot(adapter: ModelAdapter) -> dict[str, Any]:
    """All that an edit could leave behind."""
    model = adapter.model
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "bytes": {
            name: tensor.detach().contiguous().view(-1).view(torch.uint8).clone() for name, tensor in named.items()
        },
        "storage": {name: (tensor.data_ptr(), tensor.dtype, tensor.stride()) for name, tensor in named.items()},
        "flags": {name: (tensor.requires_grad, tensor.grad is None) for name, tensor in named.items()},
        "training": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in model.named_modules()
        },
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "random": torch.random.get_rng_state().clone(),
    }


def raw(tensor: Tensor) -> Tensor:
    """The tensor's bytes, a copy."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8).clone()


def same(before: Any, after: Any) -> None:
    if isinstance(before, dict):
        assert before.keys() == after.keys()
        for key in before:
            same(before[key], after[key])
    elif isinstance(before, Tensor):
        assert torch.equal(before, after)
    else:
        assert before == after


def factors(adapter: ModelAdapter) -> Callable[[int], Factor]:
    moments = second_moments(adapter, (1, 2), SENTENCES[:8])
    return lambda layer: factorise(moments[layer], 5.0)


def edit(adapter: ModelAdapter, factor: Callable[[int], Factor], **more: Any) -> Edit:
    hparams = hparams_for(adapter, (1, 2), v_num_grad_steps=4)
    return compute_edit(adapter, facts(3), hparams=hparams, templates=TEMPLATES, factor=factor, **more)


def with_a_state(adapter: ModelAdapter) -> Context:
    """A state that is not the base, so that other weights are swapped in for the search."""
    delta = {layer: torch.full(adapter.dimensions(layer), 1e-3, dtype=torch.float64) for layer in (1, 2)}
    weights = {}
    for layer, change in delta.items():
        stored = adapter.projection(layer).weight.detach()
        turned = change.T if adapter.orientation(layer) == "in_out" else change
        weights[layer] = (stored.double() + turned).to(stored.dtype)
    keys = {layer: torch.ones(adapter.dimensions(layer)[1], 2, dtype=torch.float64) for layer in (1, 2)}
    return Context(weights=weights, delta=delta, keys=keys)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "gemma2"])
def test_after_an_edit(family: str, dtype: str, tmp_path: Path) -> None:
    adapter = load(tiny(family, tmp_path, dtype=dtype))
    factor, context = factors(adapter), with_a_state(adapter)
    adapter.model.train()
    adapter.blocks[3].eval()
    next(adapter.model.parameters()).requires_grad_(False)
    before = snapshot(adapter)
    found = edit(adapter, factor, context=context)
    same(before, snapshot(adapter))
    assert all(float(update.delta.norm()) > 0 for update in found.updates.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("error", [InjectedError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["search", "a step of the search", "first layer", "second layer", "forward"])
def test_after_an_error(
    place: str, error: type[BaseException], dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = load(tiny("gpt2", tmp_path, dtype=dtype))
    factor, context = factors(adapter), with_a_state(adapter)
    before = snapshot(adapter)
    calls = 0

    def broken(layer: int) -> Factor:
        if layer == {"first layer": 1, "second layer": 2}.get(place):
            raise error
        return factor(layer)

    def on_found(*_: Any) -> None:
        if place == "search":
            raise error

    def progress(stage: str, done: int, total: int) -> None:
        if place == "a step of the search" and stage == "search z" and done:
            raise error

    block: Any = type(adapter.blocks[0])
    original = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if place == "forward" and calls == 20:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(block, "forward", forward)
    with pytest.raises(error):
        edit(adapter, broken, context=context, on_found=on_found, progress=progress)
    same(before, snapshot(adapter))


def test_two_models_in_two_threads(tmp_path: Path) -> None:
    adapters = [load(tiny(family, tmp_path / family)) for family in ("gpt2", "llama")]
    solvers = [factors(adapter) for adapter in adapters]
    expected = [edit(adapter, factor) for adapter, factor in zip(adapters, solvers, strict=True)]
    found: list[list[Edit]] = [[], []]
    start = threading.Barrier(2)

    def work(index: int) -> None:
        start.wait()
        for _ in range(3):
            found[index].append(edit(adapters[index], solvers[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(2):
        assert len(found[index]) == 3
        for again in found[index]:
            assert torch.equal(again.targets.z, expected[index].targets.z)
            for layer, update in expected[index].updates.items():
                assert torch.equal(again.updates[layer].delta, update.delta)


def test_the_same_call_gives_the_same_bits(tmp_path: Path) -> None:
    adapter = load(tiny("llama", tmp_path))
    factor = factors(adapter)
    first = edit(adapter, factor)
    torch.manual_seed(99)
    second = edit(adapter, factor)
    assert torch.equal(first.targets.z, second.targets.z)
    for layer, update in first.updates.items():
        assert torch.equal(update.delta, second.updates[layer].delta)


def test_templates_are_not_shared_between_calls() -> None:
    assert parse_templates([["{}"]]) == [[Template("")]]
    assert parse_templates([["{}"]]) is not parse_templates([["{}"]])


@pytest.mark.parametrize("search_for", ["z", "residuals"])
def test_live_edits_of_other_layers_are_in_the_model_that_is_edited(search_for: str, tmp_path: Path) -> None:
    """As if they were the base's: keys and hidden states above them depend on them (`history: false`)."""
    adapter = load(tiny("llama", tmp_path))
    factor = factors(adapter)
    hparams = hparams_for(adapter, (2,), v_num_grad_steps=3, search_for=search_for, history=False, avoid_sinks=False)
    edited = {1: adapter.projection(1).weight.detach() + 0.05}
    given: dict[str, Any] = {"hparams": hparams, "templates": TEMPLATES, "factor": factor}

    def made(context: Context) -> list[Edit]:
        first = compute_edit(adapter, facts(3), **given, context=context)
        weight = adapter.projection(2).weight.detach() + first.updates[2].delta.float()
        weights = {**context.weights, 2: weight}
        return [
            first,
            improve_edit(adapter, facts(3), first, [1], **given, context=context, weights=weights, search_again=True),
        ]

    before = snapshot(adapter)
    above = made(Context(weights=edited))
    same(before, snapshot(adapter))
    with swapped(adapter, edited):
        expected = made(Context())
    without = made(Context())
    for one, other, plain in zip(above, expected, without, strict=True):
        assert torch.equal(one.targets.z, other.targets.z)
        assert torch.equal(one.updates[2].keys, other.updates[2].keys)
        assert torch.equal(one.updates[2].delta, other.updates[2].delta)
        assert not torch.allclose(one.updates[2].keys, plain.updates[2].keys, rtol=1e-3)
