"""The example of EasyEdit's own documentation, as printed but for the model's name."""

from __future__ import annotations

import os

import pytest
import torch

from memit_vc import BaseEditor, MEMITHyperParams
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.scores.likelihood import continuations

prompts = [
    "What university did Watts Humphrey attend?",
    "Which family does Ramalinaceae belong to",
    "What role does Denny Herzig play in football?",
]
ground_truth = ["Illinois Institute of Technology", "Lecanorales", "defender"]
target_new = ["University of Michigan", "Lamiinae", "winger"]


@pytest.fixture(scope="module")
def editor() -> BaseEditor:
    directory = os.environ.get("MEMITVC_TEST_MODEL")
    if not directory:
        pytest.skip("MEMITVC_TEST_MODEL names no SmolLM2-135M directory")
    hparams = MEMITHyperParams.from_hparams("smollm2-135m")
    hparams.model_name, hparams.device = directory, "cpu"
    return BaseEditor.from_hparams(hparams)


@pytest.mark.model
def test_the_example_keeps_the_original_weights_and_then_edits_them(editor: BaseEditor) -> None:
    before = {name: value.clone() for name, value in editor.model.state_dict().items()}
    metrics, edited_model, _ = editor.edit(
        prompts=prompts, ground_truth=ground_truth, target_new=target_new, keep_original_weight=True
    )
    assert all(torch.equal(value, before[name]) for name, value in editor.model.state_dict().items())
    found = continuations(ModelAdapter.of(edited_model, editor.tok), list(zip(prompts, target_new, strict=True)))
    assert [f.argmax for f in found] == [True, True, True]
    assert not all(
        f.argmax for f in continuations(ModelAdapter.of(editor.model, editor.tok), [(prompts[0], target_new[0])])
    )
    assert [set(record) for record in metrics] == [{"pre", "case_id", "requested_rewrite", "post"}] * 3
    assert [record["post"]["rewrite_acc"] for record in metrics] == [[1.0], [1.0], [1.0]]
    assert [record["requested_rewrite"]["subject"] for record in metrics] == [
        "Watts Humphrey",
        "Ramalinaceae",
        "Denny Herzig",
    ]
    metrics, edited_model, _ = editor.edit(
        prompts=prompts, ground_truth=ground_truth, target_new=target_new, keep_original_weight=False
    )
    assert edited_model is editor.model
    assert [record["post"]["rewrite_acc"] for record in metrics] == [[1.0], [1.0], [1.0]]
