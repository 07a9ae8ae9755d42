"""The engine against outputs of the public reference implementation, step for step and number for number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import Edit, compute_edit, search_targets
from memit_vc.numerics.edit.insert import insert
from memit_vc.numerics.edit.keys import Frontier
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.statistics.factors import factorise
from memit_vc.objects import Fact
from tests.support.measure import distance, relative
from tests.support.models import hparams_for, load
from tests.support.paths import GOLDEN, SHARED

CASES = ("gpt2", "llama", "gptj")
KERNELS = "ATEN_CPU_CAPABILITY"


def read_facts(case: Path) -> list[Fact]:
    return [
        Fact(prompt=r["prompt"], subject=r["subject"], target=r["target_new"], ground_truth=r["ground_truth"])
        for r in json.loads((case / "requests.json").read_text())
    ]


def read_templates(case: Path) -> list[list[Any]]:
    return parse_templates(json.loads((case / "context_templates.json").read_text()))


def reference_losses(case: Path) -> list[list[float]]:
    """Losses by fact and step: "loss 6.1 = … avg prob of [ Lisbon] …", one line per evaluation."""
    lines = (case / "reference-loss.txt").read_text().splitlines()
    losses = [
        [float(line.removeprefix("loss ").split(" = ")[0]) for line in group]
        for _, group in groupby(lines, key=lambda line: line.split("avg prob of [")[1].rpartition("]")[0])
    ]
    assert len(losses) == len(read_facts(case))  # neighbours have different targets
    return losses


@cache
def computed(name: str) -> tuple[ModelAdapter, Edit, dict[str, Tensor], MEMITHyperParams]:
    case = GOLDEN / name
    expected = load_file(case / "expected.safetensors")
    adapter = load(case)
    hparams = MEMITHyperParams.from_hparams(case / "hparams.yaml")
    hparams.history = False

    def factor(layer: int) -> Any:
        return factorise(expected[f"second_moment.{layer}"], hparams.mom2_update_weight)

    edit = compute_edit(adapter, read_facts(case), hparams=hparams, templates=read_templates(case), factor=factor)
    return adapter, edit, expected, hparams


@pytest.mark.parametrize("name", CASES)
def test_steps_and_losses(name: str) -> None:
    _, edit, _, _ = computed(name)
    expected = reference_losses(GOLDEN / name)
    assert list(edit.targets.steps) == [len(losses) for losses in expected]
    assert edit.targets.loss == pytest.approx([losses[-1] for losses in expected], abs=1.5e-3)  # printed to 3 digits


@pytest.mark.parametrize("name", CASES)
def test_z(name: str) -> None:
    _, edit, expected, _ = computed(name)
    assert distance(edit.targets.z, expected["z"]) < 1e-5


@pytest.mark.parametrize("name", [name for name in CASES if name != "gptj"])
def test_z_of_each_fact(name: str) -> None:
    """A fact with a small z counts as much as one with a large z.

    Of gptj, whose reference z lies up to 2e-5 away from the float64 search's, a single fact comes out between 5e-6 and
    1.1e-5, as the number of threads has it: no tolerance below the reference's own error can hold there fact by fact.
    """
    _, edit, expected, _ = computed(name)
    assert relative(edit.targets.z.T, expected["z"].T) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_keys_adjusted_keys_and_residuals(name: str) -> None:
    _, edit, expected, hparams = computed(name)
    for layer in hparams.layers:
        update = edit.updates[layer]
        assert distance(update.keys, expected[f"keys.{layer}"].T) < 1e-5, layer
        assert distance(update.adjusted, expected[f"adj_k.{layer}"]) < 1e-4, layer
        assert distance(update.residual, expected[f"resid.{layer}"]) < 1e-4, layer


@pytest.mark.parametrize("name", CASES)
def test_edited_weights_for_the_same_z(name: str) -> None:
    """Keys, current z, solve and application for the reference's z.

    With a z of one's own the weights cannot agree to 1e-6 of max|W|: the deltas here are as large as the weights, and
    the reference's z is itself up to 2e-5 away from the z that the same search in float64 finds.
    """
    adapter, _, expected, hparams = computed(name)
    updates = insert(
        adapter,
        read_facts(GOLDEN / name),
        expected["z"],
        layers=hparams.layers,
        templates=read_templates(GOLDEN / name),
        factor=lambda layer: factorise(expected[f"second_moment.{layer}"], hparams.mom2_update_weight),
    )
    for layer in hparams.layers:
        wanted = expected[f"edited_weight.{layer}"]
        delta = updates[layer].delta.T if adapter.orientation(layer) == "in_out" else updates[layer].delta
        edited = adapter.projection(layer).weight.detach() + delta.float()
        assert edited.shape == wanted.shape
        assert float((edited - wanted).abs().max()) < 1e-6 * float(wanted.abs().max()), layer


@pytest.mark.parametrize("name", CASES)
def test_edited_weights_end_to_end(name: str) -> None:
    """The delta as a whole, to the tolerance of the factors it is made of."""
    adapter, edit, expected, hparams = computed(name)
    for layer in hparams.layers:
        base = adapter.projection(layer).weight.detach()
        wanted = (expected[f"edited_weight.{layer}"] - base).double()
        delta = edit.updates[layer].delta
        delta = delta.T if adapter.orientation(layer) == "in_out" else delta
        assert distance(delta, wanted) < 1e-4, layer


@pytest.mark.model
@pytest.mark.timeout(900)
def test_smollm2_135m() -> None:
    """With AVX2 kernels, as the reference ran: its z lies 2.6e-5 away from what AVX-512 or float64 finds.

    The oracle is as far off there as the engine; the two kinds of kernel differ by 2e-6 in the first loss already.
    """
    directory = os.environ.get("MEMITVC_TEST_MODEL")
    case = SHARED / "golden" / "smollm2-135m"
    if not directory or not case.is_dir():
        pytest.skip("needs MEMITVC_TEST_MODEL (a converted SmolLM2-135M, float32) and ../shared/golden")
    if "AVX512" in torch.backends.cpu.get_cpu_capability() and KERNELS not in os.environ:
        command = [sys.executable, "-m", "pytest", "-q", f"{__file__}::test_smollm2_135m"]
        again = subprocess.run(
            command, env={**os.environ, KERNELS: "avx2"}, capture_output=True, text=True, check=False
        )
        assert again.returncode == 0, again.stdout
        return
    adapter = load(Path(directory))
    assert adapter.dtype == torch.float32
    facts, templates = read_facts(case), read_templates(case)
    expected = load_file(case / "expected.safetensors")
    hparams = hparams_for(
        adapter,
        [4, 5, 6, 7, 8],
        v_num_grad_steps=25,
        v_lr=0.5,
        v_loss_layer=29,
        v_weight_decay=1e-3,
        clamp_norm_factor=4.0,
        kl_factor=0.0625,
        history=False,
    )
    targets = search_targets(adapter, facts, hparams=hparams, templates=templates)
    assert list(targets.steps) == [len(losses) for losses in reference_losses(case)]
    assert sum(targets.steps) == 79
    assert distance(targets.z, expected["z"]) < 1e-5
    keys = Frontier(adapter, facts, layers=hparams.layers, templates=templates).keys(4)
    assert distance(keys, expected["keys.4"].T) < 1e-5
