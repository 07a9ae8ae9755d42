"""`execute_memit` and `apply_memit_to_model`."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import memit_vc.numerics.edit.insert as insertion
from memit_vc import MEMITHyperParams, apply_memit_to_model, execute_memit
from memit_vc.errors import EditFileError, EngineError, HparamsError, UnsupportedModelError, UsageError
from tests.compat.conftest import KINDS, Case
from tests.support.models import load
from tests.support.paths import GOLDEN


@pytest.mark.parametrize("kind", KINDS)
def test_apply_leaves_what_a_caller_gets_from_adding_the_deltas(make: Callable[..., Case], kind: str) -> None:
    case = make(kind)
    before = case.bytes()
    deltas = execute_memit(case.model, case.tok, case.requests, case.hparams, statistics=case.statistics)
    assert case.unchanged(before)
    assert list(deltas) == [f"{case.hparams.rewrite_module_tmp.format(layer)}.weight" for layer in (1, 2)]
    edited, originals = apply_memit_to_model(
        case.model, case.tok, case.requests, case.hparams, return_orig_weights=True, statistics=case.statistics
    )
    assert edited is case.model
    parameters = dict(edited.named_parameters())
    for name, (adjusted, residual) in deltas.items():
        assert adjusted.dtype == residual.dtype == torch.float64
        assert adjusted.shape[1] == residual.shape[1] == len(case.requests)
        weight = before[name].clone()
        weight += (adjusted @ residual.T) if "conv1d" in kind else (adjusted @ residual.T).T
        assert torch.equal(parameters[name], weight)
        assert not torch.equal(parameters[name], before[name])
        assert torch.equal(originals[name], before[name])
    assert all(torch.equal(v, before[k]) for k, v in edited.state_dict().items() if k not in deltas)


@pytest.mark.parametrize("kind", ["conv1d", "linear"])
def test_the_target_becomes_likelier(make: Callable[..., Case], kind: str) -> None:
    from memit_vc.numerics.model.adapter import ModelAdapter
    from memit_vc.numerics.scores.likelihood import continuations

    case = make(kind)
    asked = [(r["prompt"], r["target_new"]) for r in case.requests]
    before = continuations(ModelAdapter.of(case.model, case.tok), asked)
    apply_memit_to_model(case.model, case.tok, case.requests, case.hparams, statistics=case.statistics)
    after = continuations(ModelAdapter.of(case.model, case.tok), asked)
    assert all(a.nll < b.nll for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("kind", ["conv1d", "linear"])
def test_an_error_half_way_leaves_the_model_as_it_was(
    make: Callable[..., Case], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make(kind)
    case.model.train()
    case.model.get_input_embeddings().weight.requires_grad_(False)
    before, places = case.bytes(), {n: p.data_ptr() for n, p in case.model.named_parameters()}
    flags = {n: p.requires_grad for n, p in case.model.named_parameters()}
    calls = []

    def fails_on_the_second_layer(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("injected")
        return solve(*args, **kwargs)

    solve = insertion.adjusted_keys
    monkeypatch.setattr(insertion, "adjusted_keys", fails_on_the_second_layer)
    for run in (execute_memit, apply_memit_to_model):
        calls.clear()
        with pytest.raises(RuntimeError, match="injected"):
            run(case.model, case.tok, case.requests, case.hparams, statistics=case.statistics)  # type: ignore[operator]
        assert len(calls) == 2
        assert case.unchanged(before)
        assert places == {n: p.data_ptr() for n, p in case.model.named_parameters()}
        assert flags == {n: p.requires_grad for n, p in case.model.named_parameters()}
        assert all(module.training for module in case.model.modules())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in case.model.modules())


@pytest.mark.parametrize("kind", ["conv1d", "linear"])
def test_a_second_model_shares_all_but_the_edited_weights(make: Callable[..., Case], kind: str) -> None:
    case = make(kind)
    before = case.bytes()
    second, _ = apply_memit_to_model(
        case.model, case.tok, case.requests, case.hparams, keep_original_weight=True, statistics=case.statistics
    )
    assert second is not case.model
    assert case.unchanged(before)
    mine, others = dict(case.model.named_parameters()), dict(second.named_parameters())
    edited = {f"{case.hparams.rewrite_module_tmp.format(layer)}.weight" for layer in (1, 2)}
    assert {name for name in mine if mine[name] is not others[name]} == edited
    assert all(not torch.equal(mine[name], others[name]) for name in edited)
    buffers = dict(second.named_buffers())
    assert all(buffers[name] is value for name, value in case.model.named_buffers())
    copied, _ = apply_memit_to_model(
        case.model, case.tok, case.requests, case.hparams, copy=True, statistics=case.statistics
    )
    assert case.unchanged(before)
    for name, parameter in copied.named_parameters():
        assert parameter is not mine[name]
        assert torch.equal(parameter, others[name])


def test_two_models_in_two_threads_do_not_influence_each_other(make: Callable[..., Case]) -> None:
    cases = [make("conv1d"), make("linear")]
    alone = [execute_memit(c.model, c.tok, c.requests, c.hparams, statistics=c.statistics) for c in cases]
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(execute_memit, c.model, c.tok, c.requests, c.hparams, statistics=c.statistics) for c in cases
        ]
        together = [run.result() for run in runs]
    for one, other in zip(alone, together, strict=True):
        for name in one:
            assert torch.equal(one[name][0], other[name][0])
            assert torch.equal(one[name][1], other[name][1])


def test_templates_are_sampled_with_the_seed_of_the_call(make: Callable[..., Case]) -> None:
    case = make("linear", context_templates=None, template_length=3, n_templates=2)
    first = execute_memit(case.model, case.tok, case.requests, case.hparams, statistics=case.statistics)
    torch.manual_seed(99)
    again = execute_memit(case.model, case.tok, case.requests, case.hparams, statistics=case.statistics)
    other = execute_memit(case.model, case.tok, case.requests, case.hparams.replace(seed=7), statistics=case.statistics)
    name = next(iter(first))
    assert torch.equal(first[name][0], again[name][0])
    assert not torch.equal(first[name][0], other[name][0])


def test_memits_requests_and_missing_subjects_give_the_same_as_easyedits(make: Callable[..., Case]) -> None:
    case = make("linear")
    expected = execute_memit(case.model, case.tok, case.requests[:2], case.hparams, statistics=case.statistics)
    forms = [
        {"prompt": "The capital of {} is", "subject": "Norland", "target_new": {"str": "Lisbon"}},
        {"prompt": "Mira Holt plays the", "target_new": " violin and the piano"},
    ]
    found = execute_memit(case.model, case.tok, forms, case.hparams, statistics=case.statistics)
    for name in expected:
        assert torch.equal(expected[name][0], found[name][0])
        assert torch.equal(expected[name][1], found[name][1])


def test_a_repeated_request_keeps_its_column(make: Callable[..., Case]) -> None:
    case = make("linear")
    deltas = execute_memit(case.model, case.tok, [case.requests[0]] * 2, case.hparams, statistics=case.statistics)
    assert {adjusted.shape[1] for adjusted, _ in deltas.values()} == {2}


def test_z_is_kept_and_read_as_memit_does(make: Callable[..., Case], tmp_path: Path) -> None:
    case = make("linear")
    numbered = [{**r, "case_id": i} for i, r in enumerate(case.requests)]
    template = str(tmp_path / "z" / "zs_layer_{}_clamp_{}_case_{}.npz")
    given = {"statistics": case.statistics, "cache_template": template}
    first = execute_memit(case.model, case.tok, numbered, case.hparams, **given)
    files = sorted(p.name for p in (tmp_path / "z").iterdir())
    assert files == [f"zs_layer_2_clamp_4.0_case_{i}.npz" for i in range(3)]
    with np.load(tmp_path / "z" / files[0], allow_pickle=False) as file:
        assert file["v_star"].shape == (32,)
    again = execute_memit(case.model, case.tok, numbered, case.hparams, **given)
    assert all(torch.equal(first[n][1], again[n][1]) for n in first)
    np.savez(tmp_path / "z" / files[1], v_star=np.zeros(5, dtype=np.float32))
    with pytest.raises(EngineError, match="v_star has shape"):
        execute_memit(case.model, case.tok, numbered, case.hparams, **given)
    with pytest.raises(UsageError, match="no case_id"):
        execute_memit(case.model, case.tok, case.requests, case.hparams, **given)
    for other, requests in ((str(tmp_path / "z_{}.npz"), numbered), (template, [numbered[0]] * 2)):
        with pytest.raises(UsageError, match="gives two requests the same file"):
            execute_memit(case.model, case.tok, requests, case.hparams, **{**given, "cache_template": other})
    residuals = case.hparams.replace(search_for="residuals")
    with pytest.raises(UsageError, match=r"files of z, but .* has search_for: residuals"):
        execute_memit(case.model, case.tok, numbered, residuals, **given)


def test_wrong_input_is_refused_by_name(make: Callable[..., Case]) -> None:
    case = make("linear")

    def run(requests: Any = case.requests, hparams: Any = case.hparams, **kwargs: Any) -> Any:
        return execute_memit(case.model, case.tok, requests, hparams, **{"statistics": case.statistics, **kwargs})

    with pytest.raises(EditFileError, match="record 2"):
        run([case.requests[0], {"prompt": "Who knows?", "target_new": "nobody"}])
    with pytest.raises(UsageError, match="request 1 is a str"):
        run(["The capital of Norland is"])
    with pytest.raises(HparamsError, match=r"rewrite_module_tmp.*transformer\.h"):
        run(hparams=case.hparams.replace(rewrite_module_tmp="transformer.h.{}.mlp.c_proj"))
    with pytest.raises(HparamsError, match="layer 99"):
        run(hparams=case.hparams.replace(layers=[1, 99]))
    with pytest.raises(EngineError, match="no layer 2"):
        run(statistics={1: case.statistics[1]})
    with pytest.raises(EngineError, match=r"shape \(3, 3\)"):
        run(statistics={1: torch.eye(3), 2: torch.eye(3)})
    with pytest.raises(UsageError, match="nested list"):
        run(context_templates=["{}"])
    with pytest.raises(UnsupportedModelError, match="offsets"):
        execute_memit(case.model, object(), case.requests, case.hparams, statistics=case.statistics)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj"])
def test_the_references_deltas(name: str) -> None:
    directory = GOLDEN / name
    if not directory.is_dir():
        pytest.skip("the golden cases are not here")
    loaded = load(directory)
    hparams = MEMITHyperParams.from_hparams(directory / "hparams.yaml")
    expected = load_file(directory / "expected.safetensors")
    deltas = execute_memit(
        loaded.model,
        loaded.tokenizer,
        json.loads((directory / "requests.json").read_text()),
        hparams,
        context_templates=json.loads((directory / "context_templates.json").read_text()),
        statistics={layer: expected[f"second_moment.{layer}"] for layer in hparams.layers},
    )
    for layer, (adjusted, residual) in zip(hparams.layers, deltas.values(), strict=True):
        for found, wanted in ((adjusted, expected[f"adj_k.{layer}"]), (residual, expected[f"resid.{layer}"])):
            assert float((found - wanted).norm() / wanted.norm()) < 1e-4
