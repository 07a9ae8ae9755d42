"""Earlier facts are asked again in turns, with the oracle's gradient, and a later edit then harms them less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from memit_vc.numerics.edit.engine import Context, Edit, compute_edit
from memit_vc.numerics.forward.replay import evaluating
from memit_vc.numerics.forward.rows import FactRow
from memit_vc.numerics.forward.tokens import target_rows
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.masters import frozen, swapped
from memit_vc.numerics.scores.explain import unanswered
from memit_vc.numerics.scores.likelihood import continuations
from memit_vc.numerics.search.rehearsal import Rehearsal
from memit_vc.numerics.search.residuals import _Residuals, columns_of
from memit_vc.objects import Fact
from tests.numerics.search.test_residuals import FLAT, LAYERS, adjusted_of, oracle_gradients, settings
from tests.support.measure import relative
from tests.support.models import FACTS, load, tiny

EARLIER, NEW = FACTS[:5], FACTS[5:8]
LEARNT = [0, 3, 4]
"""The earlier facts that the tiny model answers after their commit."""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load(tiny("llama", tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def live(adapter: ModelAdapter) -> Context:
    """The state after a commit of the earlier facts."""
    edit = compute_edit(adapter, EARLIER, **settings(adapter, v_num_grad_steps=60))
    delta = {layer: update.delta for layer, update in edit.updates.items()}
    weights = {layer: (adapter.weight(layer).double() + delta[layer]).float() for layer in delta}
    return Context(weights, delta, {layer: update.keys for layer, update in edit.updates.items()}, EARLIER)


@contextmanager
def ready(adapter: ModelAdapter, weights: Mapping[int, Tensor]) -> Iterator[ModelAdapter]:
    with swapped(adapter, weights), evaluating(adapter.model), frozen(adapter.model):
        yield adapter


def begun(adapter: ModelAdapter, live: Context, edit: Edit, *, plain: bool = False, **changes: Any) -> _Residuals:
    """A search for the new facts whose columns are those of `edit`, in a model that holds the live weights."""
    hparams = settings(adapter, v_num_grad_steps=30, **changes)["hparams"]
    search = _Residuals(adapter, NEW, adjusted_of(edit), hparams, FLAT, 1024, plain, None, live.facts)
    with torch.no_grad():
        search.delta.copy_(torch.cat([edit.updates[layer].residual.T for layer in LAYERS], dim=1))
    return search


def asked_in(search: _Residuals, step: int) -> list[Tensor]:
    return list(search.rehearsal.losses(step, search.max_tokens, search._run_rows))


@pytest.mark.parametrize("plain", [False, True], ids=["short path", "plain path"])
def test_the_gradient_is_the_oracles(adapter: ModelAdapter, live: Context, plain: bool) -> None:
    edit = compute_edit(adapter, NEW, **settings(adapter), context=live)
    with ready(adapter, live.weights):
        assert unanswered(adapter, EARLIER) == [1, 2]
        search = begun(adapter, live, edit, plain=plain, rehearse=0.3)
        for loss in asked_in(search, 0):
            loss.backward()  # type: ignore[no-untyped-call]
        # five facts take two turns; in the first of them are 0, 2 and 4, of which 2 is not answered
        turn = [EARLIER[i] for i in (0, 4)]
        asked = target_rows(
            adapter.tokenizer, [(f.prompt, f.target) for f in turn], spans=[f.subject_span for f in turn]
        )
        expected = oracle_gradients(adapter, [FactRow(0, "nll", row, 2 * 0.3) for row in asked], edit)
    assert search.delta.grad is not None
    for layer, found in columns_of(search.delta.grad, LAYERS).items():
        assert relative(found, expected[layer]) < 1e-4


def test_only_what_the_state_answers_is_asked(adapter: ModelAdapter, live: Context) -> None:
    edit = compute_edit(adapter, NEW, **settings(adapter), context=live)
    with ready(adapter, {}):  # the base, which answers nothing of this
        assert unanswered(adapter, EARLIER) == [0, 1, 2, 3, 4]
        search = begun(adapter, live, edit, rehearse=0.3)
        assert [asked_in(search, step) for step in range(4)] == [[], [], [], []]
    with ready(adapter, live.weights):
        search = begun(adapter, live, edit, rehearse=0.3)
        assert [len(asked_in(search, step)) for step in range(4)] == [1, 1, 1, 1]
        first, second, third = (asked_in(search, step)[0].item() for step in range(3))
        assert first == third != second
        assert asked_in(begun(adapter, live, edit), 0) == []  # a weight of 0


def rows_of(rehearsal: Rehearsal) -> set[tuple[int, ...]]:
    return {tuple(row.ids) for row in rehearsal._rows}


def test_of_too_many_facts_each_search_takes_another_part(adapter: ModelAdapter) -> None:
    many = [replace(f, prompt=f"In {year}, {f.prompt}") for f in FACTS for year in range(1900, 1920)]
    given: dict[str, Any] = {"weight": 0.5, "layer": 0, "plain": False, "through": False}

    def begun(facts: Sequence[Fact], searched: Sequence[Fact], steps: int) -> Rehearsal:
        return Rehearsal(adapter, facts, searched=searched, steps=steps, **given)

    # two facts ask four in a step; in 30 steps, 40 facts have three turns
    one, two = (begun(many, NEW[i : i + 2], 30) for i in (0, 1))
    assert len(rows_of(one)) == len(rows_of(two)) == 40
    assert rows_of(one) != rows_of(two)
    assert rows_of(begun(many[::-1], NEW[:2], 30)) == rows_of(one)
    assert (one._turns, one._weight) == (10, 5.0)
    assert len(rows_of(begun(many, NEW[:2], 2000))) == len(many) == 160
    assert len(rows_of(begun(many, NEW[:2], 1))) == 4


def test_what_a_new_fact_contradicts_is_not_asked(adapter: ModelAdapter) -> None:
    given: dict[str, Any] = {"weight": 0.5, "layer": 0, "plain": False, "through": False, "steps": 30}
    new = replace(EARLIER[1], target="Oslo")
    assert len(rows_of(Rehearsal(adapter, EARLIER, searched=NEW, **given))) == 5
    assert len(rows_of(Rehearsal(adapter, EARLIER, searched=[new], **given))) == 4


def test_earlier_facts_lose_less(adapter: ModelAdapter, live: Context) -> None:
    lost = {}
    for weight in (0.0, 1.0):
        given = settings(adapter, v_num_grad_steps=40, v_lr=2.0, rehearse=weight)
        edit = compute_edit(adapter, NEW, **given, context=live)
        assert live.delta is not None
        after = {
            layer: (adapter.weight(layer).double() + live.delta[layer] + update.delta).float()
            for layer, update in edit.updates.items()
        }
        with ready(adapter, after):
            said = continuations(adapter, [(EARLIER[i].prompt, EARLIER[i].target) for i in LEARNT])
        lost[weight] = sum(each.nll for each in said) / len(said)
    assert lost[1.0] < 0.9 * lost[0.0]
