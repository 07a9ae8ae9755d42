"""The MEMIT paths of EasyEdit's example scripts: the calls that each makes, in its argument layout, on a tiny model.

Only the import differs. What the scripts load (data sets, hyperparameter files) is replaced by a few requests.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import memit_vc
import memit_vc.compat.metrics as metrics_module
from memit_vc import BaseEditor, MEMITHyperParams, summary_metrics
from tests.compat.conftest import Case

PROMPTS = ["The capital of Norland is", "Mira Holt plays the"]
TARGETS, TRUTHS, SUBJECTS = ["Lisbon", "violin"], ["Vienna", "piano"], ["Norland", "Mira Holt"]
REPHRASED = ["Norland's capital is", "The instrument of Mira Holt is the"]
PROBES = {"neighborhood": {"prompt": ["The capital of Sarn is", "Lena Okafor plays the"], "ground_truth": TRUTHS}}
LISTS = {"Relation_Specificity": {"prompt": [["Sarn is"], None], "ground_truth": [["an island"], None]}}
HOPS = {"one_hop": {"prompt": [["Norland is ruled from"], None], "ground_truth": [["Lisbon"], None]}}
COMMON = {"prompts": PROMPTS, "target_new": TARGETS, "subject": SUBJECTS}


@pytest.fixture
def case(make: Callable[..., Case]) -> Case:
    return make("linear", v_num_grad_steps=2)


@pytest.fixture
def editor(case: Case, monkeypatch: pytest.MonkeyPatch) -> BaseEditor:
    short = functools.partial(metrics_module.ngram_entropy, tokens=12)  # a hundred tokens say no more here
    monkeypatch.setattr(metrics_module, "ngram_entropy", short)
    return BaseEditor.from_hparams(case.hparams, statistics=case.statistics)


EDITS: dict[str, dict[str, Any]] = {
    "edit.py": {"ground_truth": TRUTHS, "locality_inputs": PROBES, "portability_inputs": HOPS},
    "run_zsre_llama2": {"rephrase_prompts": REPHRASED, "train_ds": None, "locality_inputs": PROBES},
    "run_convsent_llama2": {"train_ds": None, "metric_kwargs": [{}, {}]},
    "run_knowedit_llama2": {"locality_inputs": LISTS, "portability_inputs": HOPS, "test_generation": True},
    "run_LLM_evaluation": {"locality_inputs": LISTS, "portability_inputs": HOPS, "train_ds": None},
    "run_CKnowEdit": {"ground_truth": TRUTHS, "rephrase_prompts": REPHRASED, "sequential_edit": False},
    "run_longform": {"ground_truth": TRUTHS, "rephrase_prompts": REPHRASED, "locality_inputs": PROBES},
    "run_AKEW_both": {"ground_truth": TRUTHS, "portability_inputs": HOPS, "sequential_edit": True},
    "run_WikiBigEdit": {"ground_truth": TRUTHS, "rephrase_prompts": REPHRASED, "sequential_edit": True},
    "run_AlphaEdit_editing": {"rephrase_prompts": REPHRASED, "locality_inputs": PROBES, "test_generation": True},
    "run_SPHERE_editing": {"rephrase_prompts": REPHRASED, "locality_inputs": PROBES, "sequential_edit": True},
    "run_wise_editing ZsRE": {"rephrase_prompts": REPHRASED, "loc_prompts": ["Sarn is"], "eval_metric": "token em"},
    "run_wise_editing hallucination": {"locality_inputs": PROBES, "eval_metric": "ppl", "sequential_edit": True},
    "notebook MEMIT_gpt2-xl": {"ground_truth": TRUTHS, "sequential_edit": True, "keep_original_weight": None},
}


@pytest.mark.parametrize("script", EDITS)
def test_edit(editor: BaseEditor, script: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {"keep_original_weight": True, **COMMON, **EDITS[script]}
    metrics, edited, weights = editor.edit(**arguments)
    assert len(metrics) == len(PROMPTS)
    assert all(not torch.equal(edited.get_parameter(name), value) for name, value in weights.items())
    json.dumps(metrics)
    means = summary_metrics(metrics)
    assert capsys.readouterr().out.startswith("Metrics Summary: ")
    key = "rewrite_ppl" if arguments.get("eval_metric") == "ppl" else "rewrite_acc"
    rewrites = [record["post"][key] for record in metrics]
    flat = [value if isinstance(value, float) else value[0] for value in rewrites]
    assert means["post"][key] == pytest.approx(sum(flat) / 2)
    assert ("locality" in means["post"]) == ("locality_inputs" in arguments)


def test_instruct_edit_gives_requests(editor: BaseEditor, case: Case) -> None:
    metrics, _, _ = editor.edit_requests(requests=case.requests[:2], keep_original_weight=True)
    assert [record["requested_rewrite"]["subject"] for record in metrics] == SUBJECTS


def test_sanitization_keeps_a_batch_edit(editor: BaseEditor, case: Case) -> None:
    base = editor.model
    editor.hparams.batch_size = len(PROMPTS)
    _, edited, _ = editor.batch_edit(prompts=PROMPTS, target_new=TARGETS, subject=SUBJECTS)
    editor.model = edited
    assert editor.model is edited is not base
    editor.hparams.batch_size = 1
    for prompt, target, subject in zip(PROMPTS, TARGETS, SUBJECTS, strict=True):  # its way with ROME
        _, edited, _ = editor.edit(prompts=[prompt], target_new=[target], subject=[subject])
        editor.model = edited
    _, edited, _ = editor.normal_edit(prompts=PROMPTS, target_new=TARGETS)
    editor.model, editor.tok = edited, case.tok
    assert editor.model is edited
    assert editor.tok is case.tok


def test_a_kept_edit_counts_as_history(make: Callable[..., Case]) -> None:
    kept, in_place = (make("linear", v_num_grad_steps=2, history=True) for _ in range(2))
    editors = [BaseEditor.from_hparams(case.hparams, statistics=case.statistics) for case in (kept, in_place)]
    for request in kept.requests[:2]:
        editors[0].model = editors[0].edit(requests=[request], keep_original_weight=True)[1]
        editors[1].edit(requests=[request], keep_original_weight=False)
    assert in_place.unchanged(editors[0].model.state_dict())
    editors[0].model = make("linear").model
    assert editors[0]._session.keys == {}  # type: ignore[attr-defined]


def test_halluedit_bench_applies_the_algorithm(editor: BaseEditor, case: Case) -> None:
    before = case.bytes()
    edited, weights = editor.apply_algo(
        editor.model, editor.tok, case.requests[:1], case.hparams,
        copy=False, return_orig_weights=True, keep_original_weight=True,
    )  # fmt: skip
    assert all(not torch.equal(edited.get_parameter(name), value) for name, value in weights.items())
    with torch.no_grad():
        for name, value in weights.items():
            editor.model.get_parameter(name)[...] = value.to(editor.device)
    assert case.unchanged(before)


@pytest.mark.parametrize("wrapped", [True, False], ids=["EasyEdit's layout", "bare"])
def test_a_file_of_measurements_is_used_again(case: Case, tmp_path: Path, wrapped: bool) -> None:
    kept = tmp_path / "pre.json"
    arguments: dict[str, Any] = {**COMMON, "locality_inputs": PROBES, "pre_file": str(kept)}
    first = BaseEditor.from_hparams(case.hparams, statistics=case.statistics).edit(**arguments)[0]
    written = json.loads(kept.read_text())
    assert written == [{"pre": record["pre"]} for record in first]
    given = written if wrapped else [record["pre"] for record in written]
    again = BaseEditor.from_hparams(case.hparams, statistics=case.statistics).edit(**arguments, pre_edit=given)[0]
    assert again == first
    assert set(again[0]["post"]["locality"]) == {"neighborhood_output", "neighborhood_acc"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([{"pre": {}}] * 2, "entry 1 of pre_edit has neither"),
        ([{"pre": {"rewrite_acc": [0.0], "locality": {}}}] * 2, "entry 1 of pre_edit has no neighborhood_output"),
        ([{"rewrite_acc": [0.0], "locality": {"neighborhood_output": [[1] * 9]}}] * 2, "has other tokens"),
        ([{"pre": {}}], "pre_edit has length 1"),
    ],
)
def test_measurements_of_something_else_are_refused(
    editor: BaseEditor, case: Case, given: list[dict[str, Any]], said: str
) -> None:
    before = case.bytes()
    with pytest.raises(memit_vc.errors.UsageError, match=said):
        editor.edit(**COMMON, locality_inputs=PROBES, pre_edit=given, keep_original_weight=False)
    assert case.unchanged(before)


def test_of_several_answers_the_first_counts(editor: BaseEditor) -> None:
    def asked(answers: Any) -> dict[str, Any]:
        return {"raw": {"prompt": [["The river Dovan flows into"]], "ground_truth": [answers]}}

    one = {"prompts": PROMPTS[:1], "target_new": TARGETS[:1], "subject": SUBJECTS[:1]}
    plain, nested = (
        editor.edit(**one, portability_inputs=asked(answers), locality_inputs=asked(answers))[0][0]
        for answers in (["Italy"], [["Italy", "italia"]])
    )
    assert nested["post"] == plain["post"]
    with pytest.raises(memit_vc.errors.UsageError, match=r"request 1: locality 'raw': ground_truth holds \[\]"):
        editor.edit(**one, locality_inputs=asked([[]]))


def test_metrics_describe_themselves_as_easyedits_do(editor: BaseEditor) -> None:
    metrics, _, _ = editor.edit(**COMMON, locality_inputs=PROBES)
    described = metrics[0]["post"]["metric_meta"]
    assert described["rewrite"] == {
        "result_key": "rewrite_acc",
        "protocol": "decoder_only_teacher_forcing",
        "scorer": "token_accuracy",
        "comparable_group": "lm.decoder_only_teacher_forcing.token_accuracy",
    }
    assert described["locality.neighborhood"]["result_key"] == "locality.neighborhood_acc"
    found, _, _ = editor.edit(**COMMON, eval_metric="ppl", rephrase_prompts=[REPHRASED, None])
    assert found[0]["post"]["rewrite_ppl"] > 0
    assert found[0]["post"]["rephrase_ppl"] > 0


def test_hyperparameters_are_read_as_in_easyedit(case: Case, tmp_path: Path) -> None:
    from dataclasses import asdict

    case.hparams.model_name = "a/b"
    path = tmp_path / "hparams.json"
    path.write_text(json.dumps(case.hparams.to_dict()))
    assert MEMITHyperParams.from_json(str(path)) == MEMITHyperParams.from_json(path) == case.hparams
    assert MEMITHyperParams(**asdict(case.hparams)) == case.hparams


def test_a_star_import_brings_the_names() -> None:
    names: dict[str, Any] = {}
    exec("from memit_vc import *", names)  # noqa: S102 (what a script does)
    assert names["BaseEditor"] is BaseEditor
    assert set(memit_vc.__all__) <= names.keys()
    assert not {"Any", "TYPE_CHECKING", "annotations"} & set(dir(memit_vc))
