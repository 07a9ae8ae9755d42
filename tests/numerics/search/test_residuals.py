"""The search for residuals: the gradient is a plain oracle's, and commits still sum to the closed form."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from memit_vc.errors import EngineError
from memit_vc.numerics.edit.engine import Context, Edit, FoundTarget, compute_edit, improve_edit
from memit_vc.numerics.forward.replay import evaluating
from memit_vc.numerics.forward.rows import FactRow
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.masters import frozen
from memit_vc.numerics.search.residuals import _Residuals, columns_of, find_residuals
from memit_vc.numerics.statistics.factors import factorise
from tests.support.measure import distance, relative, second_moments
from tests.support.models import FACTS, MIXTURE_FAMILIES, SENTENCES, hparams_for, load, tiny

TEXTS = [["{}"], ["The first report. {}", "In 1987, it was said. {}"]]
TEMPLATES = parse_templates(TEXTS)
FLAT = [template for group in TEMPLATES for template in group]
CHOSEN = FACTS[:4]
LAYERS = (1, 2)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load(tiny("llama", tmp_path_factory.mktemp("llama")))


def settings(adapter: ModelAdapter, layers: Sequence[int] = LAYERS, **changes: Any) -> dict[str, Any]:
    """Of `compute_edit`, for residuals."""
    factors = {layer: factorise(c, 5.0) for layer, c in second_moments(adapter, layers, SENTENCES).items()}
    values = {"v_num_grad_steps": 4, "v_lr": 0.5, "keep_factor": 0.5, "search_for": "residuals", **changes}
    hparams = hparams_for(adapter, layers, **values)
    return {"hparams": hparams, "templates": TEMPLATES, "factor": factors.__getitem__}


def adjusted_of(edit: Edit) -> dict[int, Tensor]:
    return {layer: update.adjusted for layer, update in edit.updates.items()}


def begun(adapter: ModelAdapter, edit: Edit, layers: Sequence[int], **changes: Any) -> _Residuals:
    """A search whose columns are those of `edit`."""
    hparams = hparams_for(adapter, layers, keep_factor=0.5, **changes)
    search = _Residuals(adapter, CHOSEN, adjusted_of(edit), hparams, FLAT, 1024, False, None)
    search._evaluate(last=True)  # what the model says without the edit
    search.taken = 1
    with torch.no_grad():
        search.delta.copy_(torch.cat([edit.updates[layer].residual.T for layer in layers], dim=1))
    return search


def oracle_gradients(adapter: ModelAdapter, rows: Sequence[FactRow], edit: Edit) -> Mapping[int, Tensor]:
    """∂ loss / ∂ R of each layer in float64: the whole model, row by row, on weights W + R (A⁻¹K)ᵀ."""
    model: Any = copy.deepcopy(adapter.model).double().eval()
    residuals = {layer: update.residual.clone().requires_grad_() for layer, update in edit.updates.items()}
    on, pivot = True, 0

    def hook(layer: int) -> Any:
        def changed(_: Any, args: Any, output: Tensor) -> Tensor:
            added = args[0] @ edit.updates[layer].adjusted @ residuals[layer].T
            # what stands before the subject's last token is taken from the unedited model
            added = torch.cat([torch.zeros_like(added[:, :pivot]), added[:, pivot:]], dim=1)
            return output + added if on else output

        return changed

    for layer in residuals:
        model.get_submodule(adapter.path(layer)).register_forward_hook(hook(layer))
    total = torch.zeros((), dtype=torch.float64)
    for each in rows:
        pivot, ids = each.row.pivot, torch.tensor([each.row.ids])
        on = False
        before = model(ids).logits[0].log_softmax(-1).detach()
        on = True
        after = model(ids).logits[0].log_softmax(-1)
        if each.kind == "nll":
            said = torch.stack([after[p, y] for p, y in zip(each.row.positions, each.row.labels, strict=True)])
            total = total - each.weight * said.mean()
        else:
            total = total + each.weight * (after[-1].exp() * (after[-1] - before[-1])).sum()
    total.backward()  # type: ignore[no-untyped-call]
    return {layer: residual.grad for layer, residual in residuals.items() if residual.grad is not None}


@pytest.mark.parametrize("layers", [(1, 2), (0, 1)], ids=["short path", "plain path"])
def test_the_gradient_is_the_oracles(adapter: ModelAdapter, layers: tuple[int, int]) -> None:
    edit = compute_edit(adapter, CHOSEN, **settings(adapter, layers))
    with evaluating(adapter.model), frozen(adapter.model):
        search = begun(adapter, edit, layers, v_weight_decay=0.0)
        search._evaluate(last=False)
    expected = oracle_gradients(adapter, search.rows, edit)
    assert search.delta.grad is not None
    for layer, found in columns_of(search.delta.grad, layers).items():
        assert relative(found, expected[layer]) < 1e-4


def test_steps_lower_the_loss_and_change_residuals_alone(adapter: ModelAdapter) -> None:
    before = {name: tensor.clone() for name, tensor in adapter.model.state_dict().items()}
    short, long = (compute_edit(adapter, CHOSEN, **settings(adapter, v_num_grad_steps=n)) for n in (2, 60))
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.model.state_dict().items())
    for layer, update in long.updates.items():
        assert torch.equal(update.keys, short.updates[layer].keys)
        assert torch.equal(update.adjusted, short.updates[layer].adjusted)
        assert not torch.equal(update.residual, short.updates[layer].residual)
    with evaluating(adapter.model), frozen(adapter.model):
        losses = [sum(begun(adapter, edit, LAYERS)._evaluate(last=True)[0]) for edit in (short, long)]
    assert losses[1] < 0.9 * losses[0]


def test_z_is_the_state_that_the_weights_give(adapter: ModelAdapter) -> None:
    edit = compute_edit(adapter, CHOSEN, **settings(adapter, v_num_grad_steps=20))
    model: Any = copy.deepcopy(adapter.model)
    with torch.no_grad():
        for layer, update in edit.updates.items():
            weight = model.get_submodule(adapter.path(layer)).weight
            weight.copy_((weight.double() + update.delta).float())
    for fact, z in zip(CHOSEN, edit.targets.z, strict=True):
        text = fact.prompt[: fact.prompt.index(fact.subject) + len(fact.subject)]
        ids = torch.tensor([adapter.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[LAYERS[-1] + 1]
        assert relative(hidden[0, -1].double(), z.double()) < 1e-5


def test_a_fact_that_is_done_keeps_its_columns(adapter: ModelAdapter) -> None:
    edit = compute_edit(adapter, CHOSEN, **settings(adapter))
    hparams = hparams_for(adapter, LAYERS, v_num_grad_steps=9, early_stop="nll", early_stop_loss=0.0)
    with evaluating(adapter.model), frozen(adapter.model):
        search = _Residuals(adapter, CHOSEN, adjusted_of(edit), hparams, FLAT, 1024, False, None)
        search.step(last=False)
        search.active.discard(1)
        search.found[1] = search.delta.detach()[1]
        kept = search.found[1].clone()
        for _ in range(3):
            search.step(last=False)
    assert float(kept.norm()) > 0
    assert torch.equal(search.delta[1], kept)
    assert not torch.equal(search.delta[2].detach(), kept)


def test_columns_stay_within_the_clamp(adapter: ModelAdapter) -> None:
    edit = compute_edit(adapter, CHOSEN, **settings(adapter))
    hparams = hparams_for(adapter, LAYERS, v_num_grad_steps=5, v_lr=1000.0, clamp_norm_factor=2.0)
    found = find_residuals(adapter, CHOSEN, adjusted=adjusted_of(edit), hparams=hparams, templates=FLAT).z
    for fact, columns in zip(CHOSEN, found, strict=True):
        text = fact.prompt[: fact.prompt.index(fact.subject) + len(fact.subject)]
        ids = torch.tensor([adapter.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = adapter.model(ids, output_hidden_states=True).hidden_states[LAYERS[0]]
        assert float(columns.norm() / hidden[0, -1].norm()) == pytest.approx(2.0, rel=1e-4)


def test_a_later_commit_still_sums_to_the_closed_form(adapter: ModelAdapter) -> None:
    given = settings(adapter, phrase_book=2, avoid_sinks=True)
    first = compute_edit(adapter, FACTS[:3], **given).updates
    delta = {layer: update.delta for layer, update in first.items()}
    weights = {layer: (adapter.weight(layer).double() + delta[layer]).float() for layer in delta}
    live = Context(weights, delta, {layer: update.keys for layer, update in first.items()})
    second = compute_edit(adapter, FACTS[3:6], **given, context=live).updates
    for layer, update in second.items():
        assert torch.equal(update.targets, update.targets.float().double())
        assert distance(update.targets, delta[layer] @ update.keys + update.residual) < 1e-12
        keys = torch.cat([first[layer].keys, update.keys], dim=1)
        targets = torch.cat([first[layer].targets, update.targets], dim=1)
        gram = given["factor"](layer).matrix() + keys @ keys.T
        closed = torch.linalg.solve(gram, keys @ targets.T).T
        assert distance(delta[layer] + update.delta, closed) < 1e-9


def test_another_try_goes_on_from_the_edited_weights(adapter: ModelAdapter) -> None:
    given = settings(adapter, v_num_grad_steps=10)
    edit = compute_edit(adapter, CHOSEN, **given)
    weights = {layer: (adapter.weight(layer).double() + u.delta).float() for layer, u in edit.updates.items()}
    again = improve_edit(adapter, CHOSEN, edit, [1, 3], **given, context=Context(), weights=weights)
    for layer, update in again.updates.items():
        same = (update.residual == edit.updates[layer].residual).all(0)
        assert same.tolist() == [True, False, True, False]
        assert torch.equal(update.keys, edit.updates[layer].keys)
    assert again.targets.steps == (10, 20, 10, 20)
    for number in (1, 3):
        assert again.targets.loss[number] < edit.targets.loss[number]


def test_what_was_found_before_is_not_searched_again(adapter: ModelAdapter) -> None:
    given = settings(adapter)
    kept: dict[int, FoundTarget] = {}
    first = compute_edit(adapter, CHOSEN, **given, on_found=kept.update)
    again = compute_edit(adapter, CHOSEN, **given, known=kept, on_found=lambda _: pytest.fail("searched"))
    for layer, update in again.updates.items():
        assert torch.equal(update.residual, first.updates[layer].residual)
    assert torch.equal(again.targets.z, first.targets.z)


def test_mixtures_are_refused_before_the_search(tmp_path: Any) -> None:
    mixture = load(tiny(sorted(MIXTURE_FAMILIES)[0], tmp_path))
    hparams = hparams_for(mixture, LAYERS, search_for="residuals")

    def never(layer: int) -> Any:
        raise AssertionError(layer)

    with pytest.raises(EngineError, match=r"search_for is residuals.*mixtures of experts") as refused:
        compute_edit(mixture, CHOSEN, hparams=hparams, templates=TEMPLATES, factor=never)
    assert refused.value.hint == "Set search_for: z."


def test_a_loss_that_is_no_number_is_told_with_its_fact(adapter: ModelAdapter) -> None:
    edit = compute_edit(adapter, CHOSEN, **settings(adapter))
    adjusted = {layer: columns * float("inf") for layer, columns in adjusted_of(edit).items()}
    hparams = hparams_for(adapter, LAYERS, v_num_grad_steps=2)
    with pytest.raises(EngineError, match=r"loss of fact 1 .* is not a number"):
        find_residuals(adapter, CHOSEN, adjusted=adjusted, hparams=hparams, templates=FLAT)
