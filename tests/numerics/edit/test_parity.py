"""The engine against the plain oracle on fresh random cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import Edit, compute_edit
from memit_vc.numerics.edit.insert import insert
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.statistics.factors import Factor, factorise
from memit_vc.objects import Fact
from tests.support.measure import distance, relative, second_moments
from tests.support.models import FACTS, SENTENCES, hparams_for, load, tiny
from tests.support.oracle import Request, Result, Setting, memit

TEMPLATES = [["{}"], ["The first report. {}", "In 1987, it was said. {}"]]
REPEATED = (
    Fact(prompt="Sarn is an island. The language spoken on Sarn is", subject="Sarn", target="English", occurrence=0),
    Fact(prompt="Sarn is an island. The language spoken on Sarn is", subject="Sarn", target="Italian"),
    Fact(prompt="Mira Holt and Mira Holt play the", subject="Mira Holt", target="violin and the piano", occurrence=1),
)


@dataclass(frozen=True)
class Case:
    family: str
    config: Mapping[str, Any] = field(default_factory=dict)
    facts: tuple[Fact, ...] = FACTS[:3]
    hparams: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "Conv1D, tied": Case("gpt2", {"tie": True}),
    "Conv1D, untied": Case("gpt2", {"tie": False}),
    "Conv1D, square": Case("gpt2", {"n_inner": 32}),
    "Linear, untied": Case("llama", {"tie": False}),
    "Linear, tied": Case("llama", {"tie": True}),
    "Linear, square": Case("llama", {"intermediate_size": 32}),
    "Linear, square, with bias": Case("gptj", {"n_inner": 32}),
    "BOS in front": Case("llama", {"tokenizer": "metaspace"}),
    "CLS in front, SEP behind": Case("gpt_neox", {"tokenizer": "wordpiece"}),
    "soft caps": Case("gemma2"),
    "learned positions with an offset": Case("opt"),
    "alibi": Case("bloom"),
    "targets of one to six tokens": Case("qwen2", facts=FACTS),
    "subject repeated in the prompt": Case("llama", facts=REPEATED),
    "loss at a lower block": Case("mistral", hparams={"v_loss_layer": 4}),
    "one fact, one layer": Case("gpt2", facts=FACTS[:1], hparams={"layers": [2]}),
    "more facts than inputs": Case("llama", {"intermediate_size": 6}, facts=FACTS),
    "clamped at once": Case("llama", hparams={"clamp_norm_factor": 0.05}),
    "stops early": Case("llama", hparams={"early_stop_loss": 5.0}),
}


def run(case: Case, directory: Path) -> tuple[ModelAdapter, Edit, Result, Mapping[int, Tensor], MEMITHyperParams]:
    adapter = load(tiny(case.family, directory, **{"seed": 11, **case.config}))
    settings = {"v_num_grad_steps": 8, "v_lr": 0.1, "history": False, "context_templates": TEMPLATES, **case.hparams}
    hparams = hparams_for(adapter, settings.pop("layers", (1, 2)), **settings)
    moments = second_moments(adapter, hparams.layers, SENTENCES)
    edit = compute_edit(
        adapter,
        case.facts,
        hparams=hparams,
        templates=parse_templates(TEMPLATES),
        factor=factors(moments, hparams.mom2_update_weight),
    )
    setting = Setting(
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
        templates=TEMPLATES,
        stop_below=hparams.early_stop_loss,
    )
    requests = [Request(f.prompt, f.subject_span[0], f.subject, f.target) for f in case.facts]
    expected = memit(adapter.model, adapter.tokenizer, requests, setting, moments)
    return adapter, edit, expected, moments, hparams


def factors(moments: Mapping[int, Tensor], weight: float) -> Callable[[int], Factor]:
    return lambda layer: factorise(moments[layer], weight)


@pytest.mark.parametrize("name", CASES)
def test_parity(name: str, tmp_path: Path) -> None:
    _, edit, expected, _, _ = run(CASES[name], tmp_path)
    assert list(edit.targets.steps) == expected.steps
    assert relative(edit.targets.z.T, expected.z.T) < 1e-5
    for layer, update in edit.updates.items():
        assert relative(update.keys, expected.keys[layer]) < 1e-5
        assert relative(update.adjusted, expected.adj[layer]) < 1e-4
        assert distance(update.residual, expected.resid[layer]) < 1e-4
        assert distance(update.delta, expected.resid[layer] @ expected.adj[layer].T) < 1e-4


@pytest.mark.parametrize("name", ["Conv1D, square", "Linear, square", "more facts than inputs", "soft caps"])
def test_weights_for_the_same_z(name: str, tmp_path: Path) -> None:
    stiff = replace(CASES[name], hparams={"mom2_update_weight": 150.0})  # deltas of the size of the golden cases'
    adapter, _, expected, moments, hparams = run(stiff, tmp_path)
    before = {layer: adapter.projection(layer).weight.detach().clone() for layer in hparams.layers}
    updates = insert(
        adapter,
        CASES[name].facts,
        expected.z,
        layers=hparams.layers,
        templates=parse_templates(TEMPLATES),
        factor=factors(moments, hparams.mom2_update_weight),
    )
    for layer, update in updates.items():
        delta = update.delta.T if adapter.orientation(layer) == "in_out" else update.delta
        edited, wanted = before[layer] + delta.float(), expected.weights[layer]
        assert torch.equal(adapter.projection(layer).weight, before[layer])
        assert not torch.equal(wanted, before[layer])
        assert float((edited - wanted).abs().max() / wanted.abs().max()) < 1e-6


def test_cases_cover_what_they_say(tmp_path: Path) -> None:
    adapter = load(tiny("qwen2", tmp_path))
    lengths = {len(adapter.tokenizer(f" {fact.target}")["input_ids"]) for fact in FACTS}
    assert min(lengths) == 1
    assert len(lengths) >= 3
    square = load(tiny("gpt2", tmp_path / "square", n_inner=32))
    assert square.dimensions(1) == (32, 32)
    assert square.orientation(1) == "in_out"
