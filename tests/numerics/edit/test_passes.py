"""Further passes and another try keep what the algebra rests on: B = D K + R, and D(S) is the sum of its commits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from memit_vc.numerics.edit.engine import Context, Edit, compute_edit, improve_edit
from memit_vc.numerics.edit.insert import LayerUpdate, insert
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.search.targets import Targets
from memit_vc.numerics.statistics.factors import Factor, factorise
from tests.support.measure import distance, second_moments
from tests.support.models import FACTS, SENTENCES, hparams_for, load, tiny

LAYERS = (1, 2)
TEMPLATES = parse_templates([["{}"]])


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load(tiny("llama", tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def factors(adapter: ModelAdapter) -> Mapping[int, Factor]:
    return {layer: factorise(c, 5.0) for layer, c in second_moments(adapter, LAYERS, SENTENCES).items()}


def some_z(adapter: ModelAdapter, count: int, seed: int) -> Tensor:
    return torch.randn(count, adapter.hidden_size, generator=torch.Generator().manual_seed(seed))


def inserted(adapter: ModelAdapter, factors: Mapping[int, Factor], part: slice, **more: Any) -> dict[int, LayerUpdate]:
    chosen = FACTS[part]
    z = some_z(adapter, len(chosen), part.start)
    return insert(adapter, chosen, z, layers=LAYERS, templates=TEMPLATES, factor=factors.__getitem__, **more)


def context(updates: Mapping[int, LayerUpdate]) -> Context:
    return Context(
        delta={layer: update.delta for layer, update in updates.items()},
        keys={layer: update.keys for layer, update in updates.items()},
    )


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_a_state_is_the_sum_of_its_commits(adapter: ModelAdapter, factors: Mapping[int, Factor], passes: int) -> None:
    first = inserted(adapter, factors, slice(0, 3), passes=passes)
    live = context(first)
    second = inserted(adapter, factors, slice(3, 6), passes=passes, before=live.delta, history=live.keys)
    check_sum(factors, first, second)


def test_another_try_keeps_the_sum_and_leaves_the_others_alone(
    adapter: ModelAdapter, factors: Mapping[int, Factor]
) -> None:
    first = inserted(adapter, factors, slice(0, 3))
    live = context(first)
    hparams = hparams_for(adapter, LAYERS, v_num_grad_steps=3)
    more: dict[str, Any] = {"hparams": hparams, "templates": TEMPLATES, "factor": factors.__getitem__, "context": live}
    weights = {layer: (adapter.weight(layer).double() + live.delta[layer]).float() for layer in LAYERS}  # type: ignore[index]
    edit = compute_edit(adapter, FACTS[3:6], **{**more, "context": Context(weights, live.delta, live.keys)})
    for anew in (False, True):
        better = improve_edit(adapter, FACTS[3:6], edit, [1], **more, weights=weights, search_again=anew)
        check_sum(factors, first, better.updates)
        assert_only(better, edit, [1], searched=anew)


def test_only_the_failing_grow(adapter: ModelAdapter, factors: Mapping[int, Factor]) -> None:
    edit = inserted(adapter, factors, slice(0, 3))
    grown = inserted(adapter, factors, slice(0, 3), begun=edit, only=[0, 2])
    for layer in LAYERS:
        assert torch.equal(grown[layer].residual[:, 1], edit[layer].residual[:, 1])
        assert distance(grown[layer].residual[:, ::2], edit[layer].residual[:, ::2]) > 1e-3
    assert torch.equal(grown[1].keys, edit[1].keys)  # nothing is edited below the first layer


def check_sum(
    factors: Mapping[int, Factor], first: Mapping[int, LayerUpdate], second: Mapping[int, LayerUpdate]
) -> None:
    """D₁ + D₂ is the joint solution of the targets that are stored, which are B = D₁ K + R in float32."""
    for layer, factor in factors.items():
        one, two = first[layer], second[layer]
        assert torch.equal(two.targets, two.targets.float().double())
        assert torch.allclose(two.targets, one.delta @ two.keys + two.residual, rtol=1e-12, atol=1e-12)
        keys, targets = (torch.cat(pair, dim=1) for pair in ((one.keys, two.keys), (one.targets, two.targets)))
        joint = targets @ torch.linalg.solve(factor.matrix() + keys @ keys.T, keys).T
        assert distance(one.delta + two.delta, joint) < 1e-8


def assert_only(better: Edit, edit: Edit, failing: list[int], *, searched: bool) -> None:
    """The residuals of the others are what they were, to the rounding of the targets; so are their z."""
    others = [i for i in range(edit.targets.z.shape[0]) if i not in failing]
    for layer, update in better.updates.items():
        before = edit.updates[layer].residual
        assert torch.allclose(update.residual[:, others], before[:, others], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(update.residual[:, failing], before[:, failing], rtol=1e-4, atol=1e-5)
    found: Targets = better.targets
    assert torch.equal(found.z[others], edit.targets.z[others])
    assert torch.equal(found.z[failing], edit.targets.z[failing]) is not searched
    assert [found.steps[i] for i in others] == [edit.targets.steps[i] for i in others]
