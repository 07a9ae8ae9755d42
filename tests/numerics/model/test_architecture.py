"""Every family: found, oriented, read to its logits, edited so that targets become likelier. The rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from memit_vc.errors import EngineError, UnsupportedModelError
from memit_vc.numerics.edit.engine import compute_edit
from memit_vc.numerics.forward.lengths import check_lengths
from memit_vc.numerics.forward.replay import hidden_of, record, replay, watching
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.architecture import ARCHITECTURES
from memit_vc.numerics.scores.likelihood import continuations
from memit_vc.numerics.statistics.factors import factorise
from tests.support.measure import relative, second_moments
from tests.support.models import FAMILIES, SENTENCES, facts, hparams_for, load, tiny, tokenizer

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 480,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def unsaved(model_type: str, **config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config)).eval()


@pytest.fixture(params=FAMILIES, scope="module")
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load(tiny(request.param, tmp_path_factory.mktemp(request.param)))


def logits_of_last_block(adapter: ModelAdapter) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = adapter.tokenizer(SENTENCES[0], return_tensors="pt")
    inputs = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
    last = adapter.n_layers - 1
    with torch.no_grad():
        hidden = record(adapter, inputs, keep={last}).outputs[last]
        return adapter.head(hidden), adapter.model(**inputs).logits


def test_the_table_is_what_the_tiny_models_cover() -> None:
    assert set(ARCHITECTURES) == set(FAMILIES)


def test_parts_of_each_family(adapter: ModelAdapter) -> None:
    assert adapter.n_layers == 6
    assert adapter.hidden_size == 32
    assert adapter.dtype == torch.float32
    for layer in range(adapter.n_layers):
        weight = dict(adapter.model.named_parameters())[adapter.parameter_name(layer)]
        assert weight is adapter.projection(layer).weight
        assert adapter.dimensions(layer)[0] == 32
        assert adapter.module(f"{adapter.architecture.block.format(layer)}.{adapter.architecture.attention}")
    assert adapter.architecture.norm in adapter.modules


def test_weight_is_a_view_in_y_equals_wx(adapter: ModelAdapter) -> None:
    x = torch.randn(adapter.dimensions(1)[1], generator=torch.Generator().manual_seed(0))
    module: Any = adapter.projection(1)
    with torch.no_grad():
        y = module(x) - (0 if module.bias is None else module.bias)
    assert relative((adapter.weight(1) @ x)[:, None], y[:, None]) < 1e-5
    assert adapter.weight(1).data_ptr() == module.weight.data_ptr()


def test_head_gives_the_models_logits(adapter: ModelAdapter) -> None:
    ours, expected = logits_of_last_block(adapter)
    assert relative(ours.reshape(-1, 1), expected.reshape(-1, 1)) < 1e-6


def test_replay_gives_what_the_model_computes(adapter: ModelAdapter) -> None:
    inputs = {**adapter.tokenizer(SENTENCES[1], return_tensors="pt"), "use_cache": False}
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        recording = record(adapter, inputs, keep={-1, 1, 3, 5})
        for start, stop in ((-1, 1), (1, 3), (1, 5)):
            out = replay(adapter, recording, recording.outputs[start], blocks=range(start + 1, stop + 1))
            assert torch.equal(out, recording.outputs[stop])


def edited_gains(adapter: ModelAdapter, count: int = 3) -> tuple[list[float], ModelAdapter]:
    """How much likelier (in nats per token) each target becomes once the update is in the stored weights."""
    batch = facts(count)
    asked = [(fact.prompt, fact.target) for fact in batch]
    hparams = hparams_for(adapter)
    moments = second_moments(adapter, hparams.layers, SENTENCES)
    before = continuations(adapter, asked)
    edit = compute_edit(
        adapter,
        batch,
        hparams=hparams,
        templates=parse_templates([["{}"]]),
        factor=lambda layer: factorise(moments[layer], hparams.mom2_update_weight),
    )
    originals = {layer: adapter.weight(layer).clone() for layer in hparams.layers}
    try:
        for layer, update in edit.updates.items():
            adapter.weight(layer).copy_(originals[layer].double() + update.delta)
        after = continuations(adapter, asked)
    finally:
        for layer, original in originals.items():
            adapter.weight(layer).copy_(original)
    return [b.nll - a.nll for b, a in zip(before, after, strict=True)], adapter


def test_targets_become_likelier(adapter: ModelAdapter) -> None:
    gains, _ = edited_gains(adapter)
    assert min(gains) > 0, gains


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_sixteen_bit_models(family: str, dtype: str, tmp_path: Path) -> None:
    gains, adapter = edited_gains(load(tiny(family, tmp_path, dtype=dtype)))
    assert adapter.dtype == getattr(torch, dtype)
    assert min(gains) > 0, gains


@pytest.mark.parametrize(("family", "square"), [("gpt2", {"n_inner": 32}), ("llama", {"intermediate_size": 32})])
def test_orientation_is_the_classes_not_the_shapes(family: str, square: dict[str, int], tmp_path: Path) -> None:
    adapter = load(tiny(family, tmp_path, **square))
    assert adapter.dimensions(0) == (32, 32)
    assert adapter.orientation(0) == ("in_out" if family == "gpt2" else "out_in")
    test_weight_is_a_view_in_y_equals_wx(adapter)


def test_blocks_return_tensors_or_tuples(adapter: ModelAdapter) -> None:
    kinds: set[type] = set()
    with torch.no_grad(), watching({0: adapter.blocks[0]}, on_output=lambda _, output: kinds.add(type(output))):
        adapter.model(torch.tensor([[5, 6, 7]]))
    assert len(kinds) == 1
    assert kinds <= {tuple, torch.Tensor}  # which one changes with transformers' version


@pytest.mark.parametrize("wrap", [lambda hidden: hidden, lambda hidden: (hidden,), lambda hidden: (hidden, None)])
def test_hidden_states_are_found_in_what_a_block_returns(wrap: Callable[[torch.Tensor], object]) -> None:
    hidden = torch.ones(1, 2, 3)
    assert hidden_of(wrap(hidden)) is hidden


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("granite", {"logits_scaling": 4.0, "residual_multiplier": 0.5}),
        ("cohere", {"logit_scale": 0.25}),
        ("olmo", {}),
        ("glm4", {"head_dim": 8}),
        ("nemotron", {}),
        ("gpt_bigcode", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
        ("codegen", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "rotary_dim": 4}),
        ("xglm", {"d_model": 32, "ffn_dim": 48, "num_layers": 3, "attention_heads": 4}),
    ],
)
def test_an_unknown_family_is_inspected(model_type: str, config: dict[str, Any]) -> None:
    small = {k: v for k, v in SMALL.items() if "d_model" not in config and "n_embd" not in config} or {
        k: v for k, v in SMALL.items() if k.endswith(("token_id", "vocab_size"))
    }
    adapter = ModelAdapter.of(unsaved(model_type, **{**small, **config}), tokenizer())
    assert model_type not in ARCHITECTURES
    assert adapter.n_layers == 3
    assert adapter.dimensions(0)[0] == 32
    assert adapter.dimensions(0)[1] in (48, 128)
    ours, expected = logits_of_last_block(adapter)
    assert relative(ours.reshape(-1, 1), expected.reshape(-1, 1)) < 1e-6


class TwoStacks(nn.Module):
    """A model that no inspection can make sense of."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="two_stacks", hidden_size=4)
        self.left = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.right = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))


def test_an_ambiguous_tree_says_what_to_write() -> None:
    with pytest.raises(UnsupportedModelError, match=r"two_stacks.*ambiguous.*left.*right") as caught:
        ModelAdapter.of(TwoStacks(), tokenizer())
    assert caught.value.hint is not None
    assert "rewrite_module_tmp" in caught.value.hint


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("phimoe", {"num_local_experts": 4}),
        ("ernie4_5_moe", {"moe_num_experts": 4, "moe_intermediate_size": 16}),
    ],
)
def test_mixtures_of_experts_are_refused(model_type: str, config: dict[str, Any]) -> None:
    model = unsaved(model_type, **{**SMALL, **config})
    with pytest.raises(UnsupportedModelError, match=f"{model_type} is a mixture of experts") as caught:
        ModelAdapter.of(model, tokenizer())
    assert caught.value.hint is not None
    assert "dense model" in caught.value.hint


def test_experts_are_seen_in_the_modules_too() -> None:
    model = unsaved("mixtral", **SMALL, num_local_experts=4)
    model.config = SimpleNamespace(model_type="like_mixtral", hidden_size=32)
    with pytest.raises(UnsupportedModelError, match="like_mixtral is a mixture of experts"):
        ModelAdapter.of(model, tokenizer())


@pytest.mark.parametrize(
    ("family", "method", "hint"), [("llama", "gptq", "unquantised checkpoint"), ("gpt_oss", "mxfp4", "dequantize=True")]
)
def test_quantised_models_are_refused(family: str, method: str, hint: str) -> None:
    model = unsaved(family, **{**SMALL, **({"num_local_experts": 4, "head_dim": 8} if family == "gpt_oss" else {})})
    model.config.quantization_config = {"quant_method": method}
    with pytest.raises(UnsupportedModelError, match="quantised") as caught:
        ModelAdapter.of(model, tokenizer())
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_a_projection_of_another_class_is_refused() -> None:
    model = unsaved("llama", **SMALL)
    model.model.layers[0].mlp.down_proj = nn.Bilinear(2, 2, 2)
    with pytest.raises(UnsupportedModelError, match="is a Bilinear, not a Linear or a Conv1D"):
        ModelAdapter.of(model, tokenizer())


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"LlamaForCausalLM has no module 'model\.layers\.9'"):
        load(tiny("llama", tmp_path)).module("model.layers.9")


def test_a_prompt_beyond_the_models_positions_is_refused(tmp_path: Path) -> None:
    adapter = load(tiny("gpt2", tmp_path))
    (fact,) = facts(1)
    long = replace(fact, prompt="word " * 2000 + fact.prompt)
    with pytest.raises(EngineError, match=r"fact 2 .* positions"):
        check_lengths(adapter, [fact, long], parse_templates([["{}"]])[0])
    check_lengths(adapter, [fact], parse_templates([["{}"]])[0])
