"""Noise on the words behind the subject: where it is, how large, and that nothing else of a search moves with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from memit_vc.numerics.forward.replay import evaluating
from memit_vc.numerics.forward.rows import FactRow
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.masters import frozen
from memit_vc.numerics.search.residuals import _Residuals
from memit_vc.numerics.search.targets import Search, find_targets
from tests.support.measure import distance
from tests.support.models import FACTS, hparams_for, load, tiny

FLAT = [Template(""), Template("The first report. "), Template("In 1987, it was said. ")]
LAYER = 2
SHARE = 0.3


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load(tiny("llama", tmp_path_factory.mktemp("llama")))


def begun(adapter: ModelAdapter, *, plain: bool = False, residuals: bool = False, **changes: Any) -> Search:
    """A search that has taken its first step, without an update. What it runs begins behind block `LAYER`."""
    layers = [LAYER + 1] if residuals else [LAYER]
    hparams = hparams_for(adapter, layers, keep_factor=0.5, **{"noise": SHARE, **changes})
    adjusted = {LAYER + 1: torch.rand(adapter.dimensions(LAYER + 1)[1], 3)}
    with evaluating(adapter.model), frozen(adapter.model), torch.no_grad():
        if residuals:
            search: Search = _Residuals(adapter, FACTS[:3], adjusted, hparams, FLAT, 1024, plain, None)
        else:
            search = Search(adapter, FACTS[:3], LAYER, hparams, FLAT, 1024, plain)
        search._forward_backward(last=True)
    search.taken = 1
    return search


def drawn(search: Search) -> dict[int, Tensor]:
    """Of each row that asks: the noise [tokens behind the pivot, d_model] of the present step."""
    found = {}
    for part in search._parts(0):
        asking = [n for n in part.rows if search.rows[n].kind == "nll" and n not in search.first.values()]
        noise = search._noise(part)
        assert (noise is None) == (not asking)
        lengths = [len(search.rows[n].row.ids) - search.rows[n].row.pivot - 1 for n in asking]
        found |= dict(zip(asking, noise.values.split(lengths), strict=True)) if noise else {}
    return found


def oracle_loss(adapter: ModelAdapter, row: FactRow, noise: Tensor) -> float:
    """The row's weighted NLL on the whole model, with noise added by a hook behind the edited block."""
    behind = slice(row.row.pivot + 1, len(row.row.ids))

    def hook(_: Any, __: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        changed = hidden.clone()
        changed[0, behind] += noise * hidden[0, behind].norm(dim=-1, keepdim=True)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = adapter.blocks[LAYER].register_forward_hook(hook)
    try:
        with torch.no_grad():
            log_p = adapter.model(torch.tensor([row.row.ids])).logits[0].log_softmax(-1)
    finally:
        handle.remove()
    told = [-log_p[at, label] for at, label in zip(row.row.positions, row.row.labels, strict=True)]
    return float(sum(told, torch.zeros(())) / len(told) * row.weight)


@pytest.mark.parametrize("residuals", [False, True], ids=["z", "residuals"])
@pytest.mark.parametrize("plain", [False, True], ids=["short path", "plain path"])
def test_the_loss_is_that_of_the_model_with_noise(adapter: ModelAdapter, plain: bool, residuals: bool) -> None:
    search = begun(adapter, plain=plain, residuals=residuals)
    noise = drawn(search)
    with evaluating(adapter.model), frozen(adapter.model), torch.enable_grad():
        search._forward_backward(last=False)
    for part in search._parts(0):  # the plain prompts must hold as they are
        first = [index for index, number in enumerate(part.rows) if number in search.first.values()]
        spans = {n: range(search.rows[part.rows[n]].row.pivot, len(search.rows[part.rows[n]].row.ids)) for n in first}
        quiet = {part.continuation.place(index, at) for index, span in spans.items() for at in span}
        assert quiet.isdisjoint(map(tuple, part.indices.noisy.T.tolist()))
    for number, row in enumerate(search.rows):
        if row.kind == "nll":
            expected = oracle_loss(adapter, row, noise.get(number, torch.zeros(1)))
            assert float(search.value[number]) == pytest.approx(expected, rel=1e-3)
        else:  # what else the model says is compared without noise
            assert float(search.value[number]) == pytest.approx(0.0, abs=1e-5)


def test_its_length_is_a_share_of_the_states(adapter: ModelAdapter) -> None:
    lengths = torch.cat([noise.norm(dim=-1) for noise in drawn(begun(adapter)).values()])
    assert float(lengths.square().mean().sqrt()) == pytest.approx(SHARE, rel=0.05)


def test_each_step_and_each_seed_draws_anew(adapter: ModelAdapter) -> None:
    search = begun(adapter)
    first = drawn(search)
    assert all(torch.equal(first[number], again) for number, again in drawn(search).items())
    search.taken = 2
    assert not any(torch.equal(first[number], other) for number, other in drawn(search).items())
    assert not any(torch.equal(first[number], other) for number, other in drawn(begun(adapter, seed=7)).items())


def test_without_a_gradient_there_is_none(adapter: ModelAdapter) -> None:
    search = begun(adapter)
    with torch.no_grad():
        assert all(search._noise(part) is None for part in search._parts(0))
    quiet = begun(adapter, noise=0.0)
    assert all(quiet._noise(part) is None for part in quiet._parts(0))


def test_a_fact_finds_the_same_alone_in_any_forward_and_on_either_path(adapter: ModelAdapter) -> None:
    hparams = hparams_for(adapter, [LAYER], noise=SHARE, keep_factor=0.5, rotate=2, v_num_grad_steps=5)

    def found(facts: int = 3, **options: Any) -> Tensor:
        return find_targets(adapter, FACTS[:facts], layer=LAYER, hparams=hparams, templates=FLAT, **options).z[0]

    z = found()
    for other in (found(1), found(max_tokens=40), found(plain=True)):
        assert distance(other, z) < 1e-3
    quiet = find_targets(adapter, FACTS[:3], layer=LAYER, hparams=hparams.replace(noise=0.0), templates=FLAT).z[0]
    assert distance(quiet, z) > 1e-2
