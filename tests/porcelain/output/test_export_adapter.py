"""Adapters: PEFT itself loads them, wraps the edited layers only, and computes what the checkout computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer as PeftLayer

from memit_vc.errors import UsageError
from memit_vc.numerics.exact.factored import Dense, LowRank
from memit_vc.numerics.exact.materialise import delta
from memit_vc.numerics.output.lora import lora_layer
from memit_vc.objects import EditableWeight
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.export_adapter import export_adapter
from memit_vc.porcelain.sets.revert import revert
from tests.support.opened import Opened, logits, plain_model

TOLERANCE = 1e-5
"""Of logits of size 1 to 10. B (A x) and W x + D x round in another order in float32; 4e-6 was measured."""


def weight(d_out: int = 6, d_in: int = 9) -> EditableWeight:
    return EditableWeight(
        name="w",
        parameter="m.w.weight",
        layer=0,
        orientation="out_in",
        d_out=d_out,
        d_in=d_in,
        dtype="F32",
        quantum=-40,
    )


def low_rank(n: int, seed: int, d_out: int = 6, d_in: int = 9) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(-1000, 1000, (d_out, n), generator=generator) * 2.0**-20
    right = torch.randint(-1000, 1000, (n, d_in), generator=generator) * 2.0**-20
    return LowRank(left.float().numpy(), right.float().numpy())


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama"])
def test_peft_computes_what_the_checkout_computes(opened: Opened, tmp_path: Path, kind: str) -> None:
    repository = opened(kind)
    made = export_adapter(repository, "HEAD", tmp_path / "adapter")
    assert sorted(path.name for path in made.directory.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert sorted(made.ranks.values()) == [5, 7]
    assert set(made.errors.values()) == {0.0}

    base = Path(repository.config.base)
    expected = logits(plain_model(checkout(repository, "HEAD", tmp_path / "out").directory))
    adapted = PeftModel.from_pretrained(plain_model(base), str(made.directory))
    wrapped = {
        name.removeprefix("base_model.model.") for name, m in adapted.named_modules() if isinstance(m, PeftLayer)
    }
    edited = {w.parameter.removesuffix(".weight") for w in repository.weights() if w.layer in (1, 2)}
    assert wrapped == edited
    assert {m.scaling["default"] for m in adapted.modules() if isinstance(m, PeftLayer)} == {1.0}
    found = logits(adapted)
    assert float((expected - logits(plain_model(base))).abs().max()) > 0.01
    assert float((found - expected).abs().max()) < TOLERANCE
    assert float((logits(adapted.merge_and_unload()) - expected).abs().max()) < TOLERANCE

    config = json.loads((made.directory / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None  # a path is private
    assert config["fan_in_fan_out"] is (kind == "gpt2")
    assert config["r"] == config["lora_alpha"] == 7


def test_a_range_is_the_difference_of_two_states(opened: Opened, tmp_path: Path) -> None:
    repository = opened("gpt2")
    revert(repository, ["HEAD~2"])
    made = export_adapter(repository, "HEAD~2..HEAD", tmp_path / "adapter")
    assert made.since == repository.resolve("HEAD~2")
    config = json.loads((made.directory / "adapter_config.json").read_text())  # type: ignore[operator]
    assert config["base_model_name_or_path"] is None  # it fits an edited model
    older = checkout(repository, "HEAD~2", tmp_path / "older").directory
    newer = checkout(repository, "HEAD", tmp_path / "newer").directory
    adapted = PeftModel.from_pretrained(plain_model(older), str(made.directory))
    assert float((logits(adapted) - logits(plain_model(newer))).abs().max()) < TOLERANCE


def test_a_rank_limit_states_its_error(opened: Opened, tmp_path: Path) -> None:
    repository = opened("llama")
    made = export_adapter(repository, "HEAD", tmp_path / "adapter", max_rank=5)
    assert set(made.ranks.values()) == {5}
    touched = [w for w in repository.weights() if w.name in made.ranks]
    for each in touched:
        from safetensors.torch import load_file

        from memit_vc.numerics.exact.patchfile import state_terms

        tensors = load_file(made.directory / "adapter_model.safetensors")
        module = f"base_model.model.{each.parameter.removesuffix('.weight')}"
        product = tensors[f"{module}.lora_B.weight"].double() @ tensors[f"{module}.lora_A.weight"].double()
        state = repository.selection(repository.state(repository.head().commit))
        whole = delta(state_terms(repository.patch_path, state, each.name), each)
        assert float((whole - product).norm() / whole.norm()) == pytest.approx(made.errors[each.name], abs=1e-6)
    assert sorted(error > 0 for error in made.errors.values()) == [False, True]


def test_nothing_to_export_is_said(opened: Opened, tmp_path: Path) -> None:
    repository = opened("gpt2")
    for revision, message in (("HEAD~3", "nothing to export"), ("HEAD..HEAD", "both ends have the same state")):
        with pytest.raises(UsageError, match=message):
            export_adapter(repository, revision, tmp_path / "adapter")
    with pytest.raises(UsageError, match="max-rank"):
        export_adapter(repository, "HEAD", tmp_path / "adapter", max_rank=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        export_adapter(repository, "HEAD", tmp_path / "full")
    assert not (tmp_path / "adapter").exists()
    assert not list(tmp_path.glob("*.tmp-*"))


@pytest.mark.parametrize(("d_out", "d_in"), [(6, 9), (9, 6), (6, 6)])
def test_dense_updates_and_many_columns_stand_beside_an_identity(d_out: int, d_in: int) -> None:
    each = weight(d_out, d_in)
    many, few = low_rank(9, 0, d_out, d_in), low_rank(2, 1, d_out, d_in)
    dense = Dense(few.left @ few.right)
    for terms in ([many], [dense], [dense, few]):
        made = lora_layer(terms, [], each)
        assert made.rank == min(d_out, d_in)
        assert np.array_equal(made.update.matrix(), delta(terms, each).float().double().numpy())
    cut = lora_layer([dense], [], each, max_rank=2)
    assert cut.rank == 2
    assert cut.error < 1e-12


def test_what_is_removed_is_subtracted() -> None:
    made = lora_layer([low_rank(2, 0)], [low_rank(1, 1)], weight())
    expected = delta([low_rank(2, 0)], weight()) - delta([low_rank(1, 1)], weight())
    assert np.array_equal(made.update.matrix(), expected.numpy())
