"""`BaseEditor`: which model is edited, what is measured, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memit_vc import BaseEditor, apply_memit_to_model, execute_memit
from memit_vc.compat.fluency import entropy
from memit_vc.compat.records import prepare_requests
from memit_vc.errors import EditFileError, UnsupportedModelError, UsageError
from tests.compat.conftest import Case

PROMPTS = ["The capital of Norland is", "Mira Holt plays the", "The Glass Tower is located in the city of"]
TARGETS = ["Lisbon", "violin and the piano", "Tokyo"]
SUBJECTS = ["Norland", "Mira Holt", "The Glass Tower"]
PROBES = {"neighbourhood": {"prompt": ["The capital of Sarn is", None, ["Sarn is", "Pellan is"]],
                            "ground_truth": ["Vienna", None, ["an island", "football"]]}}  # fmt: skip

ONE = {"prompts": "The capital of Norland is", "target_new": "Lisbon"}


def editor(case: Case, **kwargs: Any) -> BaseEditor:
    return BaseEditor.from_hparams(case.hparams, statistics=case.statistics, **kwargs)


@pytest.mark.parametrize("kind", ["conv1d", "linear"])
def test_keeping_the_original_weights_solves_one_batch_on_a_second_model(make: Callable[..., Case], kind: str) -> None:
    case = make(kind)
    before = case.bytes()
    made = editor(case)
    metrics, edited, weights = made.edit(PROMPTS, TARGETS, subject=SUBJECTS, keep_original_weight=True)
    assert made.model is case.model
    assert edited is not case.model
    assert case.unchanged(before)
    expected, _ = apply_memit_to_model(
        case.model, case.tok, case.requests, case.hparams, keep_original_weight=True, statistics=case.statistics
    )
    found = edited.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.state_dict().items())
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    assert [record["case_id"] for record in metrics] == [0, 1, 2]
    assert not any("post_immediate" in record for record in metrics)


def test_not_keeping_them_applies_one_request_after_the_other_in_place(make: Callable[..., Case]) -> None:
    case, twin = make("linear", history=False), make("linear", history=False)
    before = case.bytes()
    made = editor(case)
    metrics, edited, weights = made.edit(PROMPTS, TARGETS, subject=SUBJECTS, keep_original_weight=False)
    assert edited is made.model is case.model
    for request in twin.requests:
        apply_memit_to_model(twin.model, twin.tok, [request], twin.hparams, statistics=twin.statistics)
    assert case.unchanged(twin.bytes())
    assert all("post_immediate" in record for record in metrics)
    assert metrics[-1]["post_immediate"]["rewrite_acc"] == metrics[-1]["post"]["rewrite_acc"]
    parameters = dict(edited.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    assert case.unchanged(before)


def test_history_protects_the_keys_of_earlier_edits(make: Callable[..., Case]) -> None:
    from memit_vc.numerics.edit.keys import Frontier
    from memit_vc.numerics.edit.solve import adjusted_keys
    from memit_vc.numerics.forward.templates import parse_templates
    from memit_vc.numerics.statistics.factors import factorise
    from tests.support.models.facts import facts

    case = make("linear", history=True)
    case.hparams.layers = [2]
    made = editor(case)
    made.edit(requests=case.requests[:1], keep_original_weight=False)
    templates = parse_templates([["{}"]])
    first, second = (
        Frontier(made._session.adapter, facts(2)[i : i + 1], layers=[2], templates=templates).keys(2) for i in (0, 1)
    )
    before = case.bytes()
    made.edit(requests=case.requests[1:2], keep_original_weight=False)
    name = "model.layers.2.mlp.down_proj.weight"
    change = (case.model.state_dict()[name] - before[name]).double()
    solved = adjusted_keys(factorise(case.statistics[2], 5.0), second, history=first)
    residual = change @ solved / (solved.T @ solved)  # the rank-one change is residual times the solved key
    assert torch.allclose(residual @ solved.T, change, atol=1e-6)
    plain = adjusted_keys(factorise(case.statistics[2], 5.0), second)
    assert not torch.allclose(change @ plain / (plain.T @ plain) @ plain.T, change, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "in_place", "one_by_one"),
    [
        ({}, False, False),
        ({"sequential_edit": True}, True, True),
        ({"keep_original_weight": True}, False, False),
        ({"keep_original_weight": False}, True, True),
        ({"keep_original_weight": True, "sequential_edit": True}, False, True),
        ({"keep_original_weight": False, "sequential_edit": True}, True, True),
    ],
)
def test_the_returned_model_is_always_the_edited_one(
    make: Callable[..., Case], arguments: dict[str, bool], in_place: bool, one_by_one: bool
) -> None:
    case = make("linear", v_num_grad_steps=2)
    before = case.bytes()
    metrics, edited, weights = editor(case).edit(PROMPTS[:2], TARGETS[:2], subject=SUBJECTS[:2], **arguments)
    assert (edited is case.model) == in_place
    assert case.unchanged(before) == (not in_place)
    found = dict(edited.named_parameters())
    assert all(not torch.equal(found[name], value) for name, value in weights.items())
    assert all(("post_immediate" in record) == one_by_one for record in metrics)


def test_batches_follow_each_other_and_one_means_all_at_once(make: Callable[..., Case]) -> None:
    case = make("linear", v_num_grad_steps=2)
    before = case.bytes()
    made = editor(case)
    metrics, edited, _ = made.batch_edit(PROMPTS, TARGETS, subject=SUBJECTS)
    assert edited is not case.model
    assert case.unchanged(before)
    assert [record["case_id"] for record in metrics] == [0, 1, 2]
    assert all(record["time"] > 0 for record in metrics)
    whole, _ = apply_memit_to_model(
        case.model, case.tok, case.requests, case.hparams, keep_original_weight=True, statistics=case.statistics
    )
    assert all(torch.equal(edited.state_dict()[name], value) for name, value in whole.state_dict().items())
    made.hparams.batch_size = 2
    metrics, edited, _ = made.batch_edit(PROMPTS, TARGETS, subject=SUBJECTS, sequential_edit=True)
    assert edited is case.model
    assert [record["case_id"] for record in metrics] == [0, 1, 2]
    assert metrics[0]["time"] == metrics[1]["time"] != metrics[2]["time"]


def test_metrics_have_exactly_easyedits_keys(make: Callable[..., Case]) -> None:
    case = make("linear", v_num_grad_steps=2)
    metrics, _, _ = editor(case).edit(
        PROMPTS,
        TARGETS,
        ground_truth=["Vienna", None, None],
        rephrase_prompts=["Norland's capital is", None, ["The tower stands in", "Find the tower in"]],
        locality_inputs=PROBES,
        portability_inputs={
            "hop": {"prompt": ["Norland is ruled from", None, None], "ground_truth": ["Lisbon", None, None]}
        },
        target_neg=["Vienna", None, None],
        subject=SUBJECTS,
        keep_original_weight=True,
        test_generation=True,
    )
    first, second, third = metrics
    assert set(first) == {"pre", "case_id", "requested_rewrite", "post"}
    common = {"rewrite_acc", "locality", "portability", "metric_meta", "fluency"}
    assert set(first["pre"]) == set(first["post"]) == common | {"rephrase_acc"}
    assert set(second["pre"]) == set(second["post"]) == common
    assert set(first["pre"]["locality"]) == {"neighbourhood_output"}
    assert set(first["post"]["locality"]) == {"neighbourhood_output", "neighbourhood_acc"}
    assert set(first["pre"]["portability"]) == set(first["post"]["portability"]) == {"hop_acc"}
    assert second["post"]["locality"] == second["post"]["portability"] == {}
    assert set(first["post"]["fluency"]) == {"ngram_entropy"}
    assert set(first["pre"]["metric_meta"]) == {"rewrite", "rephrase"}
    assert set(first["post"]["metric_meta"]) == {"rewrite", "rephrase", "locality.neighbourhood"}
    assert set(first["requested_rewrite"]) == {
        "prompt", "target_new", "ground_truth", "portability", "locality", "subject", "target_neg", "rephrase_prompt",
    }  # fmt: skip
    assert len(third["post"]["rephrase_acc"]) == len(third["post"]["locality"]["neighbourhood_acc"]) == 2
    json.dumps(metrics)


def test_accuracy_is_what_a_plain_forward_says(make: Callable[..., Case]) -> None:
    case = make("conv1d")
    metrics, edited, _ = editor(case).edit(
        PROMPTS, TARGETS, subject=SUBJECTS, locality_inputs=PROBES, keep_original_weight=True
    )

    def predicted(model: Any, prompt: str, target: str) -> tuple[list[int], list[int]]:
        text = f"{prompt} {target}"
        encoded = case.tok(text, return_tensors="pt", return_offsets_mapping=True)
        first = next(i for i, (_, end) in enumerate(encoded["offset_mapping"][0].tolist()) if end > len(prompt))
        with torch.no_grad():
            logits = model(input_ids=encoded["input_ids"]).logits[0]
        return logits.argmax(-1)[first - 1 : -1].tolist(), encoded["input_ids"][0, first:].tolist()

    for record, prompt, target in zip(metrics, PROMPTS, TARGETS, strict=True):
        for part, model in (("pre", case.model), ("post", edited)):
            said, wanted = predicted(model, prompt, target)
            share = sum(a == b for a, b in zip(said, wanted, strict=True)) / len(wanted)
            assert record[part]["rewrite_acc"] == [pytest.approx(share)]
    models = {"pre": case.model, "post": edited}
    said = {part: predicted(model, "The capital of Sarn is", "Vienna")[0] for part, model in models.items()}
    locality = metrics[0]["post"]["locality"]
    assert metrics[0]["pre"]["locality"]["neighbourhood_output"] == [said["pre"]]
    assert locality["neighbourhood_output"] == [said["post"]]
    same = sum(a == b for a, b in zip(said["pre"], said["post"], strict=True)) / len(said["pre"])
    assert locality["neighbourhood_acc"] == [same]


def test_other_ways_to_ask(make: Callable[..., Case], tmp_path: Path) -> None:
    case = make("linear", v_num_grad_steps=2)
    made = editor(case)
    single, _, _ = made.edit(PROMPTS[1], TARGETS[1])
    assert single[0]["requested_rewrite"]["subject"] == "Mira Holt"
    given, _, _ = made.edit(requests=case.requests, eval_metric="ppl", pre_file=tmp_path / "pre.json")
    assert set(given[0]["post"]) == {"rewrite_ppl", "locality", "portability", "metric_meta"}
    assert json.loads((tmp_path / "pre.json").read_text())[0] == {"pre": given[0]["pre"]}
    again, _, _ = made.edit(requests=case.requests, pre_edit=[record["pre"] for record in given])
    assert again[0]["pre"] == given[0]["pre"]
    none, edited, weights = made.normal_edit(PROMPTS, TARGETS, subject=SUBJECTS, keep_original_weight=True)
    assert none is None
    assert edited is not made.model
    assert len(weights) == 2


def test_an_error_or_an_interrupt_leaves_the_model_as_it_was(
    make: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    import memit_vc.compat.session as session

    case = make("linear", v_num_grad_steps=2)
    before = case.bytes()
    made = editor(case)
    compute, calls = session.compute_edit, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(*args, **kwargs)

    monkeypatch.setattr(session, "compute_edit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.edit(PROMPTS, TARGETS, subject=SUBJECTS, keep_original_weight=False)
    assert case.unchanged(before)


def test_arguments_that_say_nothing_to_memit_are_named(
    make: Callable[..., Case], caplog: pytest.LogCaptureFixture
) -> None:
    made = editor(make("linear", v_num_grad_steps=2))
    with caplog.at_level(logging.WARNING, logger="memit_vc.compat"):
        made.edit(**ONE, metric_kwargs=[{}], nonsense=3, train_ds=None, target_neg=["x"])
        made.edit(requests=[{"prompt": ONE["prompts"], "target_new": ONE["target_new"]}], subject="x")
    assert "edit: metric_kwargs, nonsense: not an argument of MEMIT, ignored" in caplog.text
    assert "edit: target_neg: not used by MEMIT" in caplog.text
    assert "edit: subject: not used beside requests" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prompts": PROMPTS, "target_new": TARGETS[:2]}, "target_new has length 2, prompts 3"),
        ({"prompts": PROMPTS, "target_new": TARGETS, "ground_truth": "one"}, "ground_truth has length 1"),
        ({"prompts": PROMPTS, "target_new": TARGETS, "subject": "Norland"}, "subject has length 1"),
        ({"prompts": [], "target_new": []}, "prompts is empty"),
        ({"prompts": PROMPTS}, "needs prompts and target_new"),
        ({"prompts": PROMPTS, "target_new": TARGETS, "eval_metric": "ood_ppl"}, "eval_metric 'ood_ppl'"),
        ({"prompts": PROMPTS, "target_new": TARGETS, "locality_inputs": {"n": {"prompt": ["x"]}}}, "lacks prompt or"),
        (
            {**ONE, "locality_inputs": {"n": {"prompt": "x", "ground_truth": [["a", "b"]]}}},
            "entry 1 do not fit together",
        ),
        ({**ONE, "locality_inputs": {"n": {"prompt": "x", "ground_truth": ""}}}, "locality 'n' has an empty"),
    ],
)
def test_arguments_that_do_not_fit_are_named(make: Callable[..., Case], arguments: dict[str, Any], said: str) -> None:
    made = editor(make("linear"))
    with pytest.raises(UsageError, match=said):
        made.edit(**arguments)


def test_a_subject_that_cannot_be_found_is_refused(make: Callable[..., Case]) -> None:
    made = editor(make("linear"))
    with pytest.raises(EditFileError, match="record 1"):
        made.edit("who plays the violin?", "nobody")
    with pytest.raises(EditFileError, match="Oslo"):
        made.edit("The capital of Norland is", "Lisbon", subject="Oslo")


def test_unusable_models_and_hyperparameters_are_refused(
    make: Callable[..., Case], directory: Callable[[str], Path], tmp_path: Path
) -> None:
    case = make("linear")
    with pytest.raises(UsageError, match="hparams is a dict"):
        BaseEditor.from_hparams({"alg_name": "MEMIT"})  # type: ignore[arg-type]
    case.hparams.model_name = str(tmp_path / "nothing-here")
    with pytest.raises(UnsupportedModelError, match="nothing-here"):
        BaseEditor.from_hparams(case.hparams)
    pickled = tmp_path / "pickled"
    shutil.copytree(directory("linear"), pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(case.model.state_dict(), pickled / "pytorch_model.bin")
    case.hparams.model_name = str(pickled)
    with pytest.raises(UnsupportedModelError, match=r"no file named model\.safetensors"):
        BaseEditor.from_hparams(case.hparams)
    case.hparams.model_name = ""
    with pytest.raises(UsageError, match="model_name"):
        BaseEditor.from_hparams(case.hparams)


def test_a_directory_is_loaded_in_float32(make: Callable[..., Case], directory: Callable[[str], Path]) -> None:
    case = make("linear")
    case.hparams.model_name = directory("linear")
    case.hparams.device = "cpu"
    made = BaseEditor.from_hparams(case.hparams, statistics=case.statistics)
    assert {parameter.dtype for parameter in made.model.parameters()} == {torch.float32}
    assert case.unchanged({name: value.clone() for name, value in made.model.state_dict().items()})


def test_requests_are_prepared_as_in_easyedit() -> None:
    assert prepare_requests("a", "b", subject="a") == [
        {"prompt": "a", "target_new": "b", "ground_truth": None, "portability": {}, "locality": {}, "subject": "a"}
    ]
    first, second = prepare_requests(
        ["a", "b"], ("c", "d"), locality_inputs={"n": {"prompt": [None, "p"], "ground_truth": [None, "g"]}}
    )
    assert first["locality"] == {}
    assert second["locality"] == {"n": {"prompt": "p", "ground_truth": "g"}}


def test_entropy_of_a_text() -> None:
    assert entropy("a b a b a b a b a") == pytest.approx((2 / 3 * 1.0 + 4 / 3 * 0.9852281360342515) / 2)
    assert entropy("word") == 0


def test_importing_the_package_loads_no_torch() -> None:
    code = (
        "import sys, memit_vc; assert 'BaseEditor' in dir(memit_vc);"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
    with pytest.raises(AttributeError, match="nothing"):
        getattr(__import__("memit_vc"), "nothing")  # noqa: B009


def test_edits_that_were_rolled_back_by_hand_are_no_history(make: Callable[..., Case]) -> None:
    case, fresh = make("linear", history=True), make("linear", history=True)
    first, second = ({name: [request[name]] for name in request} for request in case.requests[:2])

    def edit(on: BaseEditor, request: dict[str, Any]) -> Any:
        named = {"prompt": "prompts", "subject": "subject", "target_new": "target_new", "ground_truth": "ground_truth"}
        return on.edit(**{named[key]: value for key, value in request.items()}, keep_original_weight=False)

    edited = editor(case)
    _, model, weights = edit(edited, first)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name][...] = value  # EasyEdit's own way back
    assert case.unchanged(fresh.bytes())
    edit(edited, second)
    edit(editor(fresh), second)
    assert case.unchanged(fresh.bytes())


def test_editing_under_no_grad(make: Callable[..., Case]) -> None:
    case, plain = make("linear"), make("linear")
    with torch.no_grad():
        found = execute_memit(case.model, case.tok, case.requests, case.hparams, statistics=case.statistics)
    expected = execute_memit(plain.model, plain.tok, plain.requests, plain.hparams, statistics=plain.statistics)
    for name, (adj_k, resid) in expected.items():
        assert torch.equal(found[name][0], adj_k)
        assert torch.equal(found[name][1], resid)
