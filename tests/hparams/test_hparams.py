"""Hyperparameters: EasyEdit's files load unmodified, ours fit their models, wrong ones are named."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from memit_vc.errors import HparamsError
from memit_vc.hparams import MEMITHyperParams, for_model, guess, shipped
from memit_vc.hparams.guess import _weight
from memit_vc.hparams.shipped import _SHIPPED
from tests.support.paths import ROOT, SHARED

GOLDEN = SHARED / "golden"

LLAMA = ("model.layers.{}.mlp.down_proj", "model.layers.{}", "self_attn", "model.norm", "lm_head")
GPT = ("transformer.h.{}.mlp.c_proj", "transformer.h.{}", "attn", "transformer.ln_f", "lm_head")
CHATGLM = (
    "transformer.encoder.layers.{}.mlp.dense_4h_to_h",
    "transformer.encoder.layers.{}",
    "self_attention",
    "transformer.encoder.final_layernorm",
    "transformer.output_layer",
)
# name: first and last layer, clamp, steps, v_loss_layer, weight decay, λ, modules
EASYEDIT: dict[str, tuple[int, int, str, int, int, str, int, tuple[str, ...]]] = {
    "gpt2-xl": (13, 17, "0.75", 20, 47, "0.5", 20000, (*GPT[:4], "transformer.wte")),
    "gpt-j-6B": (3, 8, "0.75", 25, 27, "0.5", 15000, ("transformer.h.{}.mlp.fc_out", *GPT[1:])),
    "llama-7b": (4, 8, "4", 25, 31, "1e-3", 15000, LLAMA),
    "baichuan-7b": (4, 8, "4", 25, 31, "1e-3", 15000, LLAMA),
    "internlm-7b": (4, 8, "4", 25, 31, "1e-3", 15000, LLAMA),
    "mistral-7b": (4, 8, "4", 25, 31, "1e-3", 15000, LLAMA),
    "llama3.2-3b": (4, 8, "4", 25, 27, "1e-3", 15000, (*LLAMA[:4], "model.embed_tokens")),
    "qwen-7b": (4, 8, "0.75", 25, 31, "0.5", 15000, GPT),
    "qwen2-7b": (4, 8, "4", 25, 27, "1e-3", 15000, LLAMA),
    "qwen2.5-7b": (4, 8, "4", 25, 27, "1e-3", 15000, LLAMA),
    "chatglm2-6b": (13, 17, "4", 25, 27, "1e-3", 15000, CHATGLM),
}


def easyedit_yaml(name: str) -> str:
    first, last, clamp, steps, loss_layer, decay, weight, modules = EASYEDIT[name]
    rewrite, block, attention, norm, head = modules
    layers = "".join(f"  - {layer}\n" for layer in range(first, last + 1))
    return f"""alg_name: "MEMIT"
model_name: "./hugging_cache/{name}"
stats_dir: "./data/stats"
device: 0
layers:
{layers}clamp_norm_factor: {clamp}
layer_selection: "all"
fact_token: "subject_last"
v_num_grad_steps: {steps}
v_lr: 5e-1
v_loss_layer: {loss_layer}
v_weight_decay: {decay}
kl_factor: 0.0625
mom2_adjustment: true
mom2_update_weight: {weight}
rewrite_module_tmp: "{rewrite}"
layer_module_tmp: "{block}"
mlp_module_tmp: "{block}.mlp"
attn_module_tmp: "{block}.{attention}"
ln_f_module: "{norm}"
lm_head_module: "{head}"
mom2_dataset: "wikipedia"
mom2_n_samples: 100000
mom2_dtype: "float32"
model_parallel: false
"""


def modules_of(params: MEMITHyperParams, n_layers: int) -> set[str]:
    names = {params.ln_f_module, params.lm_head_module}
    for layer in range(n_layers):
        for key in ("rewrite_module_tmp", "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp"):
            names.add(getattr(params, key).format(layer))
    return names


@pytest.fixture
def params() -> MEMITHyperParams:
    return MEMITHyperParams.from_yaml(easyedit_yaml("llama-7b"), source="llama-7b.yaml")


@pytest.mark.parametrize("name", EASYEDIT)
def test_easyedits_files_load_unmodified(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(easyedit_yaml(name))
    for given in (path, str(path), str(tmp_path / name)):
        params = MEMITHyperParams.from_hparams(given)
        first, last, clamp, steps, loss_layer, decay, weight, modules = EASYEDIT[name]
        assert params.layers == list(range(first, last + 1))
        assert params.v_lr == 0.5
        assert params.clamp_norm_factor == float(clamp)
        assert params.v_weight_decay == float(decay)
        assert (params.v_num_grad_steps, params.v_loss_layer) == (steps, loss_layer)
        assert params.mom2_update_weight == weight
        assert params.device == 0
        assert (params.max_length, params.batch_size) == (40, 1)
        assert (params.rewrite_module_tmp, params.lm_head_module) == (modules[0], modules[4])
        assert params.history
        params.validate(n_layers=loss_layer + 1, modules=modules_of(params, loss_layer + 1))


def test_another_algorithm_is_refused_by_its_name_first() -> None:
    text = easyedit_yaml("llama-7b").replace('"MEMIT"', '"AlphaEdit"') + "nullspace_threshold: 2e-2\n"
    with pytest.raises(HparamsError, match=r"a\.yaml: alg_name is 'AlphaEdit', not MEMIT"):
        MEMITHyperParams.from_yaml(text, source="a.yaml")


@pytest.mark.parametrize("case", ["gpt2", "llama", "gptj"])
def test_golden_files_load(case: str) -> None:
    path = GOLDEN / case / "hparams.yaml"
    if not path.exists():
        pytest.skip("the golden cases are not here")
    assert MEMITHyperParams.from_hparams(path).layers == [1, 2, 3]


def test_a_key_that_is_gone_may_have_the_value_that_changes_nothing() -> None:
    text = easyedit_yaml("llama-7b")
    plain = MEMITHyperParams.from_yaml(text, source="a.yaml")
    assert MEMITHyperParams.from_yaml(f"refine: 0\n{text}", source="a.yaml") == plain
    with pytest.raises(HparamsError) as caught:
        MEMITHyperParams.from_yaml(f"refine: 32\n{text}", source="a.yaml")
    assert caught.value.hint == "Remove it; `search_for: residuals` has taken its place."


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("v_lr: 5e-1", "v_lr: fast", "a.yaml: v_lr is 'fast', not a number"),
        ("v_lr: 5e-1", "v_lr: true", "a.yaml: v_lr is True, not a number"),
        ("v_lr: 5e-1", "v_lr: 0", "a.yaml: v_lr is 0.0"),
        ("v_lr: 5e-1", "v_lr: .nan", "a.yaml: v_lr is nan"),
        ("v_lr: 5e-1", f"v_lr: 1{'0' * 400}", "a.yaml: v_lr has too many digits"),
        ("v_num_grad_steps: 25", f"v_num_grad_steps: 1{'0' * 400}", "a.yaml: v_num_grad_steps is larger than"),
        ("  - 8\n", "  - 9223372036854775808\n", "a.yaml: layers is larger than"),
        ("mom2_adjustment: true", f"mom2_adjustment: 0x{'f' * 5000}", "mom2_adjustment is a number of thousands of"),
        ("alg_name", f"context_templates: [0x{'f' * 5000}]\nalg_name", "context_templates is a number of thousands of"),
        ('"subject_last"', f"0x{'f' * 5000}", "fact_token is a number of thousands of digits, not text"),
        ("alg_name", f"? 0x{'f' * 5000}\n: 1\nalg_name", "unknown key a number of thousands of digits"),
        ("v_lr: 5e-1", "v_Lr: 5e-1", "a.yaml: unknown key 'v_Lr'"),
        ("v_num_grad_steps: 25", "v_num_grad_steps: 2.5", "a.yaml: v_num_grad_steps is 2.5, not a whole number"),
        ("v_loss_layer: 31", "v_loss_layer:", "a.yaml: v_loss_layer is None"),
        ("v_loss_layer: 31\n", "", "a.yaml: missing: v_loss_layer"),
        ("mom2_adjustment: true", "mom2_adjustment: 1", "a.yaml: mom2_adjustment is 1, not true or false"),
        ("mom2_update_weight: 15000", "mom2_update_weight: -1", "a.yaml: mom2_update_weight is -1.0"),
        ('"subject_last"', '"last"', "a.yaml: fact_token is 'last'"),
        ('layer_selection: "all"', 'layer_selection: "random"', "a.yaml: layer_selection is 'random'"),
        ("  - 8\n", "  - 4\n", "a.yaml: layers is [4, 5, 6, 7, 4]"),
        ("  - 8\n", "  - x\n", "a.yaml: layers is 'x', not a number"),
        (
            'layer_module_tmp: "model.layers.{}"',
            'layer_module_tmp: "model.layers"',
            "layer_module_tmp is 'model.layers'",
        ),
        ("device: 0", "device: [0]", "a.yaml: device is [0], not a number"),
        ("alg_name", "refine: 32\nalg_name", "a.yaml: unknown key 'refine'"),
        ("alg_name", "search_for: y\nalg_name", "a.yaml: search_for is 'y'"),
        ("alg_name", "early_stop: never\nalg_name", "a.yaml: early_stop is 'never'"),
        ("alg_name", 'context_templates: [["x"]]\nalg_name', "a.yaml: context_templates holds 'x'"),
        ("alg_name", "context_templates: []\nalg_name", "a.yaml: context_templates has an empty list"),
        ("alg_name", "keep_questions: ['of {} and {}']\nalg_name", "a.yaml: keep_questions holds 'of {} and {}'"),
        ("alg_name", "keep_questions: []\nalg_name", "a.yaml: keep_questions is empty"),
        ("alg_name", "keep_questions: who\nalg_name", "a.yaml: keep_questions is 'who', not a list of texts"),
        ("alg_name", "context_templates: ['{}']\nalg_name", "a.yaml: context_templates is ['{}'], not a list of lists"),
    ],
)
def test_a_wrong_value_names_file_and_key(old: str, new: str, message: str) -> None:
    text = easyedit_yaml("llama-7b")
    assert old in text
    with pytest.raises(HparamsError) as caught:
        MEMITHyperParams.from_yaml(text.replace(old, new, 1), source="a.yaml")
    assert message in str(caught.value)
    assert caught.value.hint


def test_an_unknown_key_is_met_with_the_near_one() -> None:
    text = easyedit_yaml("llama-7b") + "mom2_update_wieght: 3\n"
    with pytest.raises(HparamsError) as caught:
        MEMITHyperParams.from_yaml(text, source="a.yaml")
    assert caught.value.hint == "Did you mean mom2_update_weight?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers: [1,\n 2\nv_lr: 1", "a.yaml: line 3, column 5: not YAML"),
        ("a: b: c", "a.yaml: line 1, column 5: not YAML"),
        ("", "a.yaml: is empty"),
        ("- 1", "a.yaml: holds a list"),
        ("v_num_grad_steps: 0b_", "a.yaml: has a value that cannot be read"),
        ("name: 2024-02-30", "a.yaml: has a value that cannot be read: day is out of range"),
        (f"v_lr: 1{'0' * 5000}", "a.yaml: has a value that cannot be read"),
    ],
)
def test_not_yaml(text: str, message: str) -> None:
    with pytest.raises(HparamsError) as caught:
        MEMITHyperParams.from_yaml(text, source="a.yaml")
    assert message in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"v_lr: \xff")
    with pytest.raises(HparamsError, match="not UTF-8 at byte 6"):
        MEMITHyperParams.from_hparams(tmp_path / "a")
    for name in ("b.yaml", "b", "."):
        with pytest.raises(HparamsError, match="no such file"):
            MEMITHyperParams.from_hparams(tmp_path / name)


def test_a_model_that_it_does_not_fit(params: MEMITHyperParams) -> None:
    modules = modules_of(params, 32) | {"model.embed_tokens"}
    params.validate(n_layers=32, modules=modules)
    params.replace(lm_head_module="model.embed_tokens").validate(n_layers=32, modules=modules)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"layers": [4, 32]}, "llama-7b.yaml: layers names layer 32"),
        ({"v_loss_layer": 32}, "llama-7b.yaml: v_loss_layer is 32"),
        ({"v_loss_layer": 7}, "llama-7b.yaml: v_loss_layer is 7"),
        ({"rewrite_module_tmp": "model.layers.{}.mlp.down"}, "rewrite_module_tmp names 'model.layers.4.mlp.down'"),
        ({"ln_f_module": "model.nrom"}, "ln_f_module names 'model.nrom', which the model does not have"),
        ({"lm_head_module": "head"}, "lm_head_module names 'head'"),
    ]
    for change, message in wrong:
        with pytest.raises(HparamsError) as caught:
            params.replace(**change).validate(n_layers=32, modules=modules)
        assert message in str(caught.value)
        assert caught.value.hint


def test_attributes_can_be_set_as_easyedits_scripts_do(params: MEMITHyperParams) -> None:
    params.fp16 = False  # type: ignore[attr-defined]
    params.evaluation_type = "LLM-judge"  # type: ignore[attr-defined]
    params.batch_size = 10
    changed = params.replace(v_lr="2e-1", layers=(3, 4))
    assert (changed.batch_size, changed.v_lr, changed.layers) == (10, 0.2, [3, 4])
    assert changed.evaluation_type == "LLM-judge"  # type: ignore[attr-defined]
    assert (params.v_lr, params.layers) == (0.5, [4, 5, 6, 7, 8])
    with pytest.raises(HparamsError, match="unknown hyperparameter 'v_rl'"):
        params.replace(v_rl=1)


def test_text_and_json_round_trips(params: MEMITHyperParams) -> None:
    changed = params.replace(
        context_templates=[["{}"], ["The day. {}", 'A: "b" # c. {}']],
        keep_questions=["{} was, it is said,"],
        early_stop="argmax",
        history=False,
        v_lr=1e-5,
    )
    for each in (params, changed):
        assert MEMITHyperParams.from_json(each.to_json()) == each
        text = each.to_yaml(comments={"": "Why\nthese", "layers": "guessed:\nby depth"})
        assert text.startswith("# Why\n# these\nlayers: [4, 5, 6, 7, 8]  # guessed: by depth\n")
        assert MEMITHyperParams.from_yaml(text, source="x") == each


def test_a_loaded_model_is_written_by_its_name(params: MEMITHyperParams) -> None:
    class Model:
        class config:  # noqa: N801
            _name_or_path = "org/name"

    assert params.replace(model_name=(Model(), object())).to_json()["model_name"] == "org/name"


@pytest.mark.parametrize("device", [0, "0", "cuda", "cuda:0", 7])
def test_a_missing_gpu_becomes_the_cpu_with_a_warning(
    params: MEMITHyperParams, device: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    params = params.replace(device=device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="llama-7b.yaml: device .* is not on this machine"):
        assert params.resolved_device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert params.resolved_device() == ("cuda:7" if device == 7 else "cuda:0")


def test_devices(params: MEMITHyperParams) -> None:
    assert params.replace(device="cpu").resolved_device() == "cpu"
    assert params.replace(device="auto").resolved_device() in ("cpu", "cuda:0")
    with pytest.raises(HparamsError, match="device is 'gpu'"):
        params.replace(device="gpu").resolved_device()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b"),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("llama3.2-3b", "llama-3.2-3b"),
        ("EleutherAI/gpt-j-6B", "gpt-j-6b"),
        ("GPT2-XL", "gpt2-xl"),
        ("allenai/OLMo-2-1124-7B-Instruct", "olmo-2-7b"),
        ("google/gemma-3-1b-it", "gemma-3-1b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
    ],
)
def test_shipped_names_are_matched_loosely(name: str, stem: str) -> None:
    assert Path(MEMITHyperParams.from_hparams(name).source).stem == stem


@pytest.mark.parametrize("name", ["gpt2-medium", "smollm", "hparams/MEMIT/gpt2-xl.yaml", "./gpt2"])
def test_near_names_are_listed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HparamsError, match="no such file") as caught:
        MEMITHyperParams.from_hparams(name)
    assert caught.value.hint is not None
    assert ("gpt2" if "gpt2" in name else "smollm2-135m") in caught.value.hint


def test_the_file_of_a_base_fits_name_and_size() -> None:
    cached = "/cache/models--HuggingFaceTB--SmolLM2-135M-Instruct/snapshots/0a1b"
    for source in ("HuggingFaceTB/SmolLM2-135M", cached, "models/smollm2-135m"):
        path = for_model(source, "llama", 30, 576)
        assert path is not None
        assert path.stem == "smollm2-135m"
    assert for_model("gpt2", "gpt2", 5, 32) is None
    assert for_model("my-model", "llama", 30, 576) == path  # nothing else is of this size
    assert for_model("my-model", "llama", 32, 4096) is None


@pytest.mark.parametrize("stem", shipped())
def test_shipped_files_fit_their_models(stem: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, n_layers, hidden = _SHIPPED[stem]
    params = MEMITHyperParams.from_hparams(stem)
    config = AutoConfig.for_model(model_type, num_hidden_layers=n_layers, vocab_size=64, pad_token_id=0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    params.validate(n_layers=n_layers, modules=dict(model.named_modules()))
    assert params.v_loss_layer == n_layers - 1
    assert for_model(params.model_name, model_type, n_layers, hidden) is not None
    raw = yaml.safe_load(Path(params.source).read_text())
    assert set(raw) <= set(yaml.safe_load(easyedit_yaml("llama-7b")))


def test_every_shipped_file_has_a_size() -> None:
    assert set(shipped()) == set(_SHIPPED)
    assert len(shipped()) == 20


def test_the_measured_setting() -> None:
    params = MEMITHyperParams.from_hparams("smollm2-135m")
    assert (params.layers, params.v_loss_layer, params.mom2_update_weight) == ([2, 3, 4, 5, 6, 7, 8], 29, 2000.0)


NAMES = {
    "rewrite": LLAMA[0],
    "layer": LLAMA[1],
    "mlp": "model.layers.{}.mlp",
    "attn": "model.layers.{}.self_attn",
    "ln_f": "model.norm",
    "lm_head": "lm_head",
}


@pytest.mark.parametrize(
    ("model_type", "n_layers", "d_in", "layers"),
    [
        ("llama", 30, 1536, [4, 5, 6, 7, 8]),
        ("llama", 32, 11008, [4, 5, 6, 7, 8]),
        ("gpt2", 48, 6400, [13, 14, 15, 16, 17]),
        ("llama", 6, 64, [1, 2, 3, 4]),
        ("llama", 5, 64, [1, 2, 3]),
        ("gpt2", 3, 64, [1]),
        ("gpt2", 2, 64, [0]),
        ("gpt2", 1, 64, [0]),
    ],
)
def test_a_guess_is_valid_and_said(model_type: str, n_layers: int, d_in: int, layers: list[int]) -> None:
    params, sentences = guess(
        model_type=model_type,
        n_layers=n_layers,
        widths=dict.fromkeys(range(n_layers), d_in),
        hidden_size=32,
        modules=NAMES,
    )
    assert params.layers == layers
    params.validate(n_layers=n_layers, modules=modules_of(params, n_layers))
    assert MEMITHyperParams.from_yaml(params.to_yaml(), source="x") == params
    assert any("λ" in s for s in sentences)
    assert any("not measured" in s for s in sentences)
    assert ("no block is left" in " ".join(sentences)) == (n_layers == 1)


@pytest.mark.parametrize("n_layers", range(2, 100))
def test_a_guess_leaves_a_block_above(n_layers: int) -> None:
    for model_type in ("gpt2", "llama"):
        widths = dict.fromkeys(range(n_layers), 64)
        params, _ = guess(model_type=model_type, n_layers=n_layers, widths=widths, hidden_size=32, modules=NAMES)
        assert params.layers[-1] < n_layers - 1
        assert len(params.layers) <= 5


def test_the_guessed_weight_grows_with_the_width_of_the_keys() -> None:
    def guessed(width: int) -> float:
        widths = dict.fromkeys(range(30), width)
        params, sentences = guess(model_type="llama", n_layers=30, widths=widths, hidden_size=9, modules=NAMES)
        assert f"for keys of width {width}:" in sentences[1]
        return params.mom2_update_weight

    assert [guessed(width) for width in (64, 1536, 3072, 11008)] == [83, 2000, 4000, 14000]


@pytest.mark.parametrize(
    ("experts", "layers", "said"),
    [
        (range(3, 30), [4, 5, 6, 7, 8], "layers 4 to 8 of 30"),
        (range(7, 30), [7, 8, 9, 10, 11], "layers 7 to 11 of 30"),
        (range(1, 30, 2), [5, 7, 9, 11, 13], "layers 5, 7, 9, 11, 13 of 30"),
        ([1, 28], [28], "layer 28 of 30"),
        ([29], [29], "layer 29 of 30"),
    ],
)
def test_a_guess_takes_layers_with_experts(experts: Sequence[int], layers: list[int], said: str) -> None:
    """The first layers of a mixture may be dense, or every other one."""
    widths = dict.fromkeys(experts, 1536)
    params, sentences = guess(model_type="llama", n_layers=30, widths=widths, hidden_size=9, modules=NAMES)
    assert params.layers == layers
    assert sentences[0].startswith(f"{said}:")


def test_reading_needs_no_numerics() -> None:
    code = (
        "import sys, memit_vc.hparams, memit_vc.edits\n"
        "heavy = {'torch', 'numpy', 'yaml', 'transformers'} & {m.partition('.')[0] for m in sys.modules}\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shipped_values_that_nobody_measured_follow_the_rule_of_the_guess() -> None:
    for path in sorted((ROOT / "hparams").glob("*.yaml")):
        found = re.search(r"mom2_update_weight: (\d+)  # not measured: .* the keys, (\d+)", path.read_text())
        if found:
            assert float(found[1]) == _weight(int(found[2])), path.name
