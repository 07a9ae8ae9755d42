"""Layers on several devices, and which device solves: checked with tensors that have a device and no memory, and on a
GPU where there is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from memit_vc.errors import EngineError
from memit_vc.numerics.edit import insert as insert_module
from memit_vc.numerics.edit.insert import insert, solved
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.devices import CPU, computed_on, is_full_rate, placed, solve_device
from memit_vc.numerics.statistics.factors import Factor, factorise
from tests.support.measure import relative, second_moments
from tests.support.models import FACTS, SENTENCES, hparams_for, load, tiny

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


@pytest.mark.parametrize("device", [CPU, FIRST, SECOND])
def test_keys_and_hidden_states_of_two_cards_meet_on_one(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    def adjusted(factor: Factor, keys: Tensor, *, history: Tensor) -> Tensor:
        assert {factor.lower.device, keys.device, history.device} == {device}
        return factor.lower @ keys

    monkeypatch.setattr(insert_module, "adjusted_keys", adjusted)
    with FakeTensorMode():
        update = solved(
            torch.empty(6, 2, device=FIRST),
            torch.empty(4, 2, device=SECOND),
            share=2,
            factor=Factor(torch.empty(6, 6, dtype=torch.float64)),
            before=torch.empty(4, 6, dtype=torch.float64),
            history=torch.empty(6, 3, dtype=torch.float64),
            device=device,
        )
        found = (update.keys, update.residual, update.adjusted, update.targets)
    assert {tensor.device for tensor in found} == {CPU}
    assert [tuple(tensor.shape) for tensor in found] == [(6, 2), (4, 2), (6, 2), (4, 2)]
    assert {tensor.dtype for tensor in found} == {torch.float64}


def test_a_head_named_by_its_embedding_takes_hidden_states_of_the_last_card(tmp_path: Path) -> None:
    adapter = load(tiny("gpt2", tmp_path))
    with FakeTensorMode(), torch.no_grad():
        embedding = nn.Embedding(9, 4, device=FIRST)
        adapter.__dict__["modules"] = {adapter.architecture.head: embedding}
        adapter.model.get_output_embeddings = lambda: embedding
        logits = adapter.logits(torch.empty(3, 4, device=SECOND))
    assert logits.device == FIRST
    assert logits.shape == (3, 9)


def test_the_solve_runs_where_float64_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    assert solve_device(CPU) == CPU
    for capability, fast in {
        (7, 0): True,
        (8, 0): True,
        (9, 0): True,
        (7, 5): False,
        (8, 6): False,
        (8, 9): False,
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert is_full_rate(capability) is fast
        assert solve_device(SECOND) == (SECOND if fast else CPU)


def test_a_solve_that_does_not_fit_the_gpu_runs_on_the_cpu() -> None:
    tried: list[torch.device] = []

    def run(*, device: torch.device) -> str:
        tried.append(device)
        if device != CPU:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return "solved"

    assert computed_on(FIRST, run) == "solved"
    assert tried == [FIRST, CPU]

    def broken(*, device: torch.device) -> None:
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        computed_on(FIRST, broken)


def test_the_chosen_device_is_the_one_that_solves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer asks for its own device, and what was chosen reaches the solve."""
    adapter = load(tiny("llama", tmp_path))
    asked: list[Any] = []

    def chosen(near: torch.device) -> torch.device:
        asked.append(near)
        return CPU

    monkeypatch.setattr(insert_module, "solve_device", chosen)
    edited(adapter)
    assert asked == [CPU, CPU]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_solves_like_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load(tiny("llama", tmp_path))
    expected = edited(adapter)
    monkeypatch.setattr(insert_module, "solve_device", lambda _: torch.device("cuda:0"))
    found = edited(adapter)
    for layer, update in found.items():
        assert update.adjusted.device == CPU
        assert relative(update.adjusted, expected[layer].adjusted) < 1e-8
        assert relative(update.residual, expected[layer].residual) < 1e-6


def edited(adapter: Any) -> Any:
    hparams = hparams_for(adapter)
    moments = second_moments(adapter, hparams.layers, SENTENCES)
    z = torch.randn(3, adapter.hidden_size, generator=torch.Generator().manual_seed(0))
    return insert(
        adapter,
        FACTS[:3],
        z,
        layers=hparams.layers,
        templates=parse_templates([["{}"]]),
        factor=lambda layer: factorise(moments[layer], hparams.mom2_update_weight),
    )


def test_a_device_that_torch_cannot_use_is_an_error_of_ours(tmp_path: Path) -> None:
    adapter = load(tiny("gpt2", tmp_path))
    for device in ("cuda:7", "mps"):
        if device == "cuda:7" or not torch.backends.mps.is_available():
            with pytest.raises(EngineError, match=f"cannot be put on device {device}"):
                placed(adapter.model, device)
