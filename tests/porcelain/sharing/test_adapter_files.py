"""Which adapters are taken, and what the others are told. Nothing is stored of an adapter that is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memit_vc.errors import MemitVCError
from memit_vc.numerics.exact.factored import Dense
from memit_vc.numerics.exact.patchfile import read_patch
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.sharing.adapter_files import About, read_about
from memit_vc.porcelain.sharing.import_adapter import import_adapter
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.porcelain.sharing.test_import_adapter import TOLERANCE, largest, weights_of
from tests.support.models.loras import lora
from tests.support.places import Place, contents, copy_of, make_place

Q, DOWN = "model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("llama"), "llama")


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True, "r": 3},
        {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"^" + Q: 5, "down_proj": 1}},
        {"r": 40, "target_modules": ["down_proj"]},
    ],
    ids=["rslora", "patterns", "a rank above break-even"],
)
def test_the_scale_is_pefts(place: Place, tmp_path: Path, settings: dict[str, Any]) -> None:
    place = copy_of(place, tmp_path)
    merged = lora(place.base, "llama", tmp_path / "lora", **{"target_modules": [Q, DOWN], **settings})
    with Repository.open(place.work) as repository:
        made = import_adapter(repository, tmp_path / "lora")
        out = checkout(repository, "HEAD", tmp_path / "out").directory
        assert largest(merged, weights_of(out)) < TOLERANCE < largest(merged, weights_of(place.base))
        (patch,) = repository.commit(made.id).patches
        terms = read_patch(repository.patch_path(patch))[1].values()
        assert all(isinstance(term, Dense) == (settings.get("r") == 40) for term in terms)
        assert fsck(repository)[0] == []


def test_the_name_of_a_card_is_its_heading(tmp_path: Path) -> None:
    for text, name in (
        ("# Polite  \n", "Polite"),
        ("---\nlicense: mit\n---\n\n#   Two words\r\n", "Two words"),
        ("# Model Card for Model ID \n", None),
        ("#\nno heading", None),
        (f"# a{' ' * 200_000}b\n", "a b"),  # took time that grows as the square of the blanks
    ):
        (tmp_path / "README.md").write_text(text, newline="")
        assert read_about(tmp_path).name == name


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("license: mit", "mit"),
        ("license:\n- apache-2.0\n- mit", "apache-2.0, mit"),
        ("license: [mit]", "mit"),
        ("license: other\nlicense_name: llama3", "llama3"),
        ("license: [mit, other]\nlicense_name: llama3", "mit, llama3"),
        ("license: [mit, 3]", None),
        ("license: []", None),
        ("license: {mit: yes}", None),
        ("license: 3", None),
        ("tags: [a]", None),
    ],
)
def test_the_licence_of_a_card_may_be_a_list(tmp_path: Path, card: str, licence: str | None) -> None:
    (tmp_path / "README.md").write_text(f"---\n{card}\n---\n")
    assert read_about(tmp_path).licence == licence


def test_half_precision_and_what_the_user_says(place: Place, tmp_path: Path) -> None:
    place = copy_of(place, tmp_path)
    merged = lora(place.base, "llama", tmp_path / "lora", target_modules=[Q], card="# Model Card for Model ID\n")
    edit_tensors(tmp_path / "lora", lambda tensors: {name: each.bfloat16() for name, each in tensors.items()})
    with Repository.open(place.work) as repository:
        made = import_adapter(repository, tmp_path / "lora", about=About(None, "mit", None), message="polite")
        assert made.name.startswith("adapter ")
        assert (made.licence, made.source, made.notes) == ("mit", None, ())
        out = weights_of(checkout(repository, "HEAD", tmp_path / "out").directory)
        moved = float((out[f"{Q}.weight"] - weights_of(place.base)[f"{Q}.weight"]).norm())
        assert float((out[f"{Q}.weight"] - merged[f"{Q}.weight"]).norm()) < 0.01 * moved
        assert repository.commit(made.id).message == "polite"


def test_what_drowns_in_a_narrow_base_is_said(tmp_path: Path) -> None:
    place = make_place(tmp_path, "llama", dtype="bfloat16")
    lora(place.base, "llama", tmp_path / "lora", target_modules=[Q])
    edit_tensors(tmp_path / "lora", lambda tensors: {name: each.float() / 16 for name, each in tensors.items()})
    with Repository.open(place.work) as repository:
        made = import_adapter(repository, tmp_path / "lora")
        assert len(made.warnings) == 1
        assert "survives the rounding to BF16" in made.warnings[0]
        assert fsck(repository)[0] == []


def edit_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = directory / "adapter_model.safetensors"
    save_file({name: each.contiguous() for name, each in change(load_file(path)).items()}, path, {"format": "pt"})


def config(**values: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    return lambda directory: edit_tensors(directory, change)


def renamed(old: str, new: str) -> Callable[[Path], None]:
    return tensors(lambda found: {name.replace(old, new): each for name, each in found.items()})


def pickled(directory: Path) -> None:
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda at: (at / "adapter_config.json").unlink(), "adapter_config.json: cannot be read"),
    "a config that is none": (lambda at: (at / "adapter_config.json").write_text("[1"), "is not JSON"),
    "a list": (lambda at: (at / "adapter_config.json").write_text("[]"), "not a JSON object"),
    "a pickle": (pickled, "a pickle may run code"),
    "another method": (config(peft_type="IA3"), "of type 'IA3', not LORA"),
    "DoRA": (config(use_dora=True), "sets use_dora"),
    "whole modules": (config(modules_to_save=["lm_head"]), "sets modules_to_save"),
    "a setting of tomorrow": (config(use_wonder=True), "sets use_wonder"),
    "biases": (config(bias="all"), "bias is 'all'"),
    "changed base weights": (config(init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
    "an expression": (config(rank_pattern={"(a+)+": 4}), "more than a module's name"),
    "a rank that is none": (config(r="4"), "is not a rank or alpha"),
    "another rank": (config(r=5), "has rank 4, .* says 5"),
    "no rank": (config(lora_alpha=0), "is not a rank or alpha"),
    "a base that is a number": (config(base_model_name_or_path=5), "base_model_name_or_path is not a text"),
    "a root that is a number": (config(use_rslora=1), "use_rslora is not true or false"),
    "a module that is not there": (renamed("q_proj", "qkv_proj"), "which the base does not have"),
    "the head": (renamed(Q, "lm_head"), "not a projection of a layer"),
    "a norm": (renamed(f"{Q}.", "model.layers.1.input_layernorm."), "not a projection of a layer"),
    "an embedding": (renamed("lora_A.weight", "lora_embedding_A"), "not a part of a plain LoRA"),
    "half a pair": (
        tensors(lambda found: {name: each for name, each in found.items() if "lora_B" not in name}),
        "only one of lora_A and lora_B",
    ),
    "another width": (tensors(lambda found: {n: each[:, :3] for n, each in found.items()}), "the base's weight is"),
    "NaN": (tensors(lambda found: {n: each * torch.nan for n, each in found.items()}), "NaN or infinity"),
    "too much": (tensors(lambda found: {n: each * 1e9 for n, each in found.items()}), "exact"),
    "nothing": (tensors(lambda found: {n: each * 0 for n, each in found.items()}), "changes nothing"),
    "integers": (tensors(lambda found: {n: each.int() for n, each in found.items()}), "not a matrix of plain floats"),
    "a cut file": (
        lambda at: (at / "adapter_model.safetensors").write_bytes((at / "adapter_model.safetensors").read_bytes()[:-5]),
        "adapter_model.safetensors",
    ),
}


@pytest.fixture(scope="module")
def sound(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sound")
    lora(place.base, "llama", directory, target_modules=[Q])
    return directory


@pytest.mark.parametrize("blow", REFUSED)
def test_what_is_refused_leaves_nothing(place: Place, sound: Path, tmp_path: Path, blow: str) -> None:
    adapter = tmp_path / "lora"
    adapter.mkdir()
    for path in sound.iterdir():
        (adapter / path.name).write_bytes(path.read_bytes())
    change, reason = REFUSED[blow]
    change(adapter)
    before = contents(place.work)
    with Repository.open(place.work) as repository:
        with pytest.raises(MemitVCError, match=reason) as caught:
            import_adapter(repository, adapter)
        assert caught.value.hint
    assert contents(place.work) == before


def test_what_is_not_named_is_said(place: Place, sound: Path, tmp_path: Path) -> None:
    place = copy_of(place, tmp_path)
    (sound / "README.md").unlink()
    config(base_model_name_or_path="owner/other")(sound)
    with Repository.open(place.work) as repository:
        made = import_adapter(repository, sound)
        assert made.notes == (
            "the adapter names owner/other as its base; this repository's is a local directory",
            "the adapter's card names no licence",
        )
        assert fsck(repository)[0] == []
