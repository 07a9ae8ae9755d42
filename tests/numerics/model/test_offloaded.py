"""Models that do not fit: refused where a part was left outside, edited where only the devices differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from memit_vc import execute_memit
from memit_vc.compat.models import adapter_for
from memit_vc.compat.models import load as load_named
from memit_vc.errors import EngineError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.porcelain.editing import models as models_module
from memit_vc.porcelain.editing.models import open_adapter
from memit_vc.store.checkpoint import Checkpoint
from tests.support.measure import relative, second_moments
from tests.support.models import FACTS, SENTENCES, hparams_for, load, tiny

REQUESTS = [{"prompt": fact.prompt, "subject": fact.subject, "target_new": fact.target} for fact in FACTS[:2]]
OUTSIDE = ["model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("llama", tmp_path_factory.mktemp("llama"))


def settings(directory: Path) -> MEMITHyperParams:
    return hparams_for(load(directory), v_num_grad_steps=3, v_lr=0.1, device="cpu")


def test_a_part_without_values_is_refused_with_its_size(directory: Path) -> None:
    adapter = load(directory)
    adapter.model.model.layers[5].mlp.to("meta")
    with pytest.raises(EngineError, match=r"of .* GB of the model's weights did not fit .*layers\.5\.mlp"):
        ModelAdapter.of(adapter.model, adapter.tokenizer)
    with pytest.raises(EngineError, match="did not fit"):
        adapter_for(adapter.model, adapter.tokenizer, settings(directory))


@pytest.mark.parametrize("first_outside", [2, 4])
def test_what_accelerate_leaves_on_the_disk_is_refused(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_outside: int
) -> None:
    pytest.importorskip("accelerate")
    hparams = settings(directory)
    layers = {f"model.layers.{i}": "cpu" if i < first_outside else "disk" for i in range(6)}
    placement = {**dict.fromkeys(OUTSIDE, "cpu"), **layers}
    original = AutoModelForCausalLM.from_pretrained

    def spread(*arguments: Any, **named: Any) -> Any:
        assert named.pop("device_map") == "auto"
        return original(*arguments, device_map=placement, offload_folder=str(tmp_path), **named)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spread)
    monkeypatch.setattr(models_module, "_needs_several", lambda *_: True)
    with pytest.raises(EngineError, match="did not fit into the memory of the GPUs"):
        open_adapter(Checkpoint.find(directory), dtype="F32", device="cuda:0")
    hparams.model_name, hparams.model_parallel = str(directory), True
    model, tok = load_named(hparams)
    with pytest.raises(EngineError, match="did not fit into the memory of the GPUs"):
        execute_memit(model, tok, REQUESTS, hparams)


def test_a_model_that_accelerate_has_spread_is_edited_like_any_other(directory: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    plain, spread = load(directory), load(directory)
    names = dict.fromkeys([*OUTSIDE, *(f"model.layers.{i}" for i in range(6))], "cpu")
    spread.model.hf_device_map = names
    accelerate.dispatch_model(spread.model, names, force_hooks=True)
    compare(plain, spread)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("split", [2, 3])
def test_a_model_on_two_devices(directory: Path, split: int) -> None:
    """Edited layers 1 and 2 on one device each, or both on the first and the rest of the search on the second."""
    accelerate = pytest.importorskip("accelerate")
    plain, spread = load(directory), load(directory)
    layers = {f"model.layers.{i}": 0 if i < split else "cpu" for i in range(6)}
    names = {**dict.fromkeys(OUTSIDE, "cpu"), **layers}
    accelerate.dispatch_model(spread.model, names, main_device="cpu", force_hooks=True)
    compare(plain, spread)


def compare(plain: ModelAdapter, spread: ModelAdapter) -> None:
    hparams = hparams_for(plain, v_num_grad_steps=3, v_lr=0.1, device="cpu")
    statistics = second_moments(plain, hparams.layers, SENTENCES)
    expected, found = (
        execute_memit(each.model, each.tokenizer, REQUESTS, hparams, statistics=statistics) for each in (plain, spread)
    )
    for name, (adjusted, residual) in found.items():
        assert relative(adjusted, expected[name][0]) < 1e-4
        assert relative(residual, expected[name][1]) < 1e-4
