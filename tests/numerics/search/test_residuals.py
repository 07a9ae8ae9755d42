"""Residuals trained through the weights: the gradient is a plain oracle's, and nothing but R changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from memit_vc.errors import EngineError
from memit_vc.numerics.edit.engine import Context, Edit, compute_edit
from memit_vc.numerics.forward.replay import evaluating
from memit_vc.numerics.forward.rows import FactRow
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.masters import frozen
from memit_vc.numerics.search.residuals import _Training, trained_residuals
from memit_vc.numerics.statistics.factors import factorise
from tests.support.measure import distance, relative, second_moments
from tests.support.models import FACTS, MIXTURE_FAMILIES, SENTENCES, hparams_for, load, tiny

TEXTS = [["{}"], ["The first report. {}", "In 1987, it was said. {}"]]
TEMPLATES = parse_templates(TEXTS)
FLAT = [template for group in TEMPLATES for template in group]
CHOSEN = FACTS[:4]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load(tiny("llama", tmp_path_factory.mktemp("llama")))


def edited(adapter: ModelAdapter, layers: Sequence[int], context: Context | None = None, **changes: Any) -> Edit:
    factors = {layer: factorise(c, 5.0) for layer, c in second_moments(adapter, layers, SENTENCES).items()}
    hparams = hparams_for(adapter, layers, **{"v_num_grad_steps": 4, "v_lr": 0.5, "keep_factor": 0.5, **changes})
    given: Any = {"hparams": hparams, "templates": TEMPLATES, "factor": factors.__getitem__, "context": context}
    return compute_edit(adapter, CHOSEN, **given)


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
    edit = edited(adapter, layers)
    hparams = hparams_for(adapter, layers, keep_factor=0.5, refine=1)
    with evaluating(adapter.model), frozen(adapter.model):
        training = _Training(adapter, CHOSEN, hparams, FLAT, 1024, None)
        updates = edit.updates
        residuals = {layer: update.residual for layer, update in updates.items()}
        training.begin(residuals, {layer: update.adjusted for layer, update in updates.items()}, range(len(CHOSEN)))
        training._evaluate(last=False)
    expected = oracle_gradients(adapter, training.rows, edit)
    for layer in layers:
        found = training.columns[layer].grad
        assert found is not None
        assert relative(found.double(), expected[layer]) < 1e-4


def test_steps_lower_the_loss_and_change_residuals_alone(adapter: ModelAdapter) -> None:
    before = {name: tensor.clone() for name, tensor in adapter.model.state_dict().items()}
    plain, refined = edited(adapter, (1, 2)), edited(adapter, (1, 2), refine=40)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.model.state_dict().items())
    assert torch.equal(plain.targets.z, refined.targets.z)
    for layer, update in refined.updates.items():
        assert torch.equal(update.keys, plain.updates[layer].keys)
        assert torch.equal(update.adjusted, plain.updates[layer].adjusted)
        assert not torch.equal(update.residual, plain.updates[layer].residual)
    losses = [loss_of(adapter, edit) for edit in (plain, refined)]
    assert losses[1] < 0.95 * losses[0]


def loss_of(adapter: ModelAdapter, edit: Edit) -> float:
    """Of all facts, on the edited weights."""
    hparams = hparams_for(adapter, (1, 2), keep_factor=0.5, refine=1)
    with evaluating(adapter.model), frozen(adapter.model):
        training = _Training(adapter, CHOSEN, hparams, FLAT, 1024, None)
        updates = edit.updates
        residuals = {layer: update.residual for layer, update in updates.items()}
        training.begin(residuals, {layer: update.adjusted for layer, update in updates.items()}, range(len(CHOSEN)))
        losses, _, _ = training._evaluate(last=True)
    return sum(losses)


def test_columns_outside_the_chunk_stay_as_they_are(adapter: ModelAdapter) -> None:
    updates = edited(adapter, (1, 2)).updates
    residuals = {layer: update.residual for layer, update in updates.items()}
    adjusted = {layer: update.adjusted for layer, update in updates.items()}
    hparams = hparams_for(adapter, (1, 2), keep_factor=0.5, refine=3)
    told: list[int] = []
    given: Any = {"hparams": hparams, "templates": FLAT, "on_step": told.append}
    found = trained_residuals(adapter, CHOSEN, residuals, adjusted, chunks=[range(1, 3)], **given)
    for layer, residual in residuals.items():
        same = (found[layer] == residual).all(0)
        assert same.tolist() == [True, False, False, True]
    assert told == [2, 4, 6]


def test_a_later_commit_still_sums_to_the_closed_form(adapter: ModelAdapter) -> None:
    factors = {layer: factorise(c, 5.0) for layer, c in second_moments(adapter, (1, 2), SENTENCES).items()}
    hparams = hparams_for(adapter, (1, 2), v_num_grad_steps=3, refine=4, phrase_book=2, avoid_sinks=True)
    given: Any = {"hparams": hparams, "templates": TEMPLATES, "factor": factors.__getitem__}
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
        gram = factors[layer].matrix() + keys @ keys.T
        closed = torch.linalg.solve(gram, keys @ targets.T).T
        assert distance(delta[layer] + update.delta, closed) < 1e-9


def test_mixtures_are_refused_before_the_search(tmp_path: Any) -> None:
    mixture = load(tiny(sorted(MIXTURE_FAMILIES)[0], tmp_path))
    hparams = hparams_for(mixture, (1, 2), refine=2)

    def never(layer: int) -> Any:
        raise AssertionError(layer)

    with pytest.raises(EngineError, match=r"refine is 2.*mixtures of experts") as refused:
        compute_edit(mixture, CHOSEN, hparams=hparams, templates=TEMPLATES, factor=never)
    assert refused.value.hint == "Set refine: 0."


def test_no_column_moves_further_than_it_was_long(adapter: ModelAdapter) -> None:
    updates = edited(adapter, (1, 2)).updates
    residuals = {layer: update.residual for layer, update in updates.items()}
    adjusted = {layer: update.adjusted for layer, update in updates.items()}
    hparams = hparams_for(adapter, (1, 2), keep_factor=0.5, refine=5, v_lr=1000.0)
    found = trained_residuals(adapter, CHOSEN, residuals, adjusted, chunks=[range(4)], hparams=hparams, templates=FLAT)
    for layer, residual in residuals.items():
        moved = (found[layer] - residual).norm(dim=0) / residual.norm(dim=0)
        assert float(moved.max()) <= 1 + 1e-5
        assert float(moved.min()) > 0.5  # so large a step reaches the bound


def test_a_result_that_is_not_finite_is_refused(adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(self: _Training, step: int) -> None:
        with torch.no_grad():
            self.columns[2][0, 1] = float("nan")

    monkeypatch.setattr(_Training, "train", spoil)
    with pytest.raises(EngineError, match="residuals of layer 2 ended in values that are not finite"):
        edited(adapter, (1, 2), refine=1)
    with torch.no_grad():
        assert bool(adapter.model(torch.tensor([[1, 2]])).logits.isfinite().all())


def test_a_loss_that_is_no_number_is_told_with_its_fact(adapter: ModelAdapter) -> None:
    updates = edited(adapter, (1, 2)).updates
    residuals = {layer: update.residual * float("inf") for layer, update in updates.items()}
    adjusted = {layer: update.adjusted for layer, update in updates.items()}
    hparams = hparams_for(adapter, (1, 2), refine=2)
    with pytest.raises(EngineError, match=r"loss of fact 1 .* is not a number"):
        trained_residuals(adapter, CHOSEN, residuals, adjusted, chunks=[range(4)], hparams=hparams, templates=FLAT)
