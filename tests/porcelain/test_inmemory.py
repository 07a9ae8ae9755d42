"""States on a model in memory: the checkout's bytes, and the model given back to the bit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import memit_vc
from memit_vc.errors import BaseChangedError, RevisionError, UnsupportedModelError, UsageError
from memit_vc.porcelain.base import checked_base
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.export_merged import export_merged
from memit_vc.repository import Repository
from tests.support.flips import flip
from tests.support.models import tiny
from tests.support.opened import Opened, logits, plain_model


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama-bf16"])
def test_a_model_in_memory_is_the_checkout(opened: Opened, tmp_path: Path, kind: str) -> None:
    repository = opened(kind)
    for number, revision in enumerate(("HEAD", "HEAD~1", "HEAD~3")):
        expected = plain_model(checkout(repository, revision, tmp_path / str(number)).directory)
        for source in (repository, str(repository.directory)):
            found = memit_vc.from_pretrained(source, revision)
            assert same(tensors(found), tensors(expected))
            assert not found.training
    assert same(tensors(memit_vc.from_pretrained(repository)), tensors(memit_vc.from_pretrained(repository, "main")))


def test_another_dtype_holds_the_whole_edit(opened: Opened) -> None:
    repository = opened("llama-bf16")
    wide = memit_vc.from_pretrained(repository, dtype=torch.float32)
    narrow = memit_vc.from_pretrained(repository)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    edited = {w.parameter for w in repository.weights() if w.layer in (1, 2)}
    for name, parameter in wide.named_parameters():
        assert torch.equal(parameter.bfloat16(), dict(narrow.named_parameters())[name])
        assert torch.equal(parameter.bfloat16().float(), parameter) is (name not in edited)


def test_apply_switch_restore(opened: Opened) -> None:
    repository = opened("gpt2")
    model = plain_model(Path(repository.config.base))
    before, storages = tensors(model), {n: p.data_ptr() for n, p in model.named_parameters()}
    first, third = (tensors(memit_vc.from_pretrained(repository, r)) for r in ("HEAD~2", "HEAD"))
    names = {w.layer: w.parameter for w in repository.weights()}

    applied = memit_vc.apply_state(model, repository, "HEAD~2")
    assert same(tensors(model), first)
    assert applied.commit == repository.resolve("HEAD~2")
    assert applied.parameters == (names[1], names[2])
    untouched = {n for n, p in model.named_parameters() if p.data_ptr() == storages[n]}
    assert untouched == storages.keys() - {names[1], names[2]}

    applied.switch("HEAD~1")
    layer_one = dict(model.named_parameters())[names[1]].data_ptr()
    applied.switch("HEAD")
    assert dict(model.named_parameters())[names[1]].data_ptr() == layer_one  # the third commit leaves layer 1 alone
    assert same(tensors(model), third)
    with pytest.raises(RevisionError):
        applied.switch("nowhere")
    assert same(tensors(model), third)

    applied.restore()
    applied.restore()
    assert same(tensors(model), before)
    assert {n: p.data_ptr() for n, p in model.named_parameters()} == storages


def test_as_a_context_manager_and_on_another_state(opened: Opened) -> None:
    repository = opened("llama")
    model = memit_vc.from_pretrained(repository, "HEAD~1")
    before = tensors(model)
    with memit_vc.apply_state(model, str(repository.directory), "HEAD") as inner:
        assert same(tensors(model), tensors(memit_vc.from_pretrained(repository, "HEAD")))
        inner.switch("HEAD~3")
        assert same(tensors(model), tensors(plain_model(Path(repository.config.base))))
    assert same(tensors(model), before)

    def fails() -> None:
        with memit_vc.apply_state(model, repository, "HEAD"):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fails()
    assert same(tensors(model), before)


def test_what_does_not_fit_is_refused(opened: Opened, tmp_path: Path) -> None:
    repository = opened("llama")
    other = plain_model(tiny("llama", tmp_path / "other", seed=3))
    before = tensors(other)
    with pytest.raises(BaseChangedError, match=r"embed_tokens\.weight"):
        memit_vc.apply_state(other, repository)
    trained = plain_model(Path(repository.config.base))
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(0.1)
    with pytest.raises(BaseChangedError, match=r"norm\.weight"):
        memit_vc.apply_state(trained, repository)
    with pytest.raises(UnsupportedModelError, match="no float parameter"):
        memit_vc.apply_state(plain_model(tiny("gpt2", tmp_path / "gpt2")), repository)
    assert same(tensors(other), before)
    with pytest.raises(UsageError, match="no memit-vc repository"):
        memit_vc.from_pretrained(tmp_path / "gpt2")
    with pytest.raises(UsageError, match="no memit-vc repository"):
        memit_vc.from_pretrained("some-model")
    with pytest.raises(UsageError, match="trust_remote_code"):
        memit_vc.from_pretrained(repository, trust_remote_code=True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "repository is None, not a path"),
        (3, "repository is 3, not a path"),
        (b"x", "repository is b'x', not a path"),
        ("", "'': there is no memit-vc repository"),
        ("a\0b", r"^a\\x00b: there is no memit-vc repository"),
        ("~no-such-user/x", "cannot be looked at"),
        ("x" * 5000, "cannot be looked at"),
    ],
)
def test_what_names_no_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | Path | Repository, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (lambda: memit_vc.from_pretrained(given), lambda: memit_vc.apply_state(torch.nn.Linear(1, 1), given)):
        with pytest.raises(UsageError, match=said) as caught:
            call()
        assert caught.value.hint


def test_a_file_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / ".memitvc").touch()
    for given in (tmp_path / "file", tmp_path / "file" / "x", tmp_path):
        with pytest.raises(UsageError, match="there is no memit-vc repository"):
            memit_vc.from_pretrained(given)


def test_revisions_that_name_nothing(opened: Opened) -> None:
    repository = opened("llama")
    model = plain_model(Path(repository.config.base))
    before = tensors(model)
    wrong: list[Any] = [3, False, b"HEAD", ["HEAD"], Path("HEAD"), "HEAD\0", "a\nb"]
    for revision in wrong:
        kind, said = (RevisionError, "no commit") if isinstance(revision, str) else (UsageError, "revision is .* not a")
        for call in (memit_vc.from_pretrained, partial(memit_vc.apply_state, model)):
            with pytest.raises(kind, match=said) as caught:
                call(repository, revision)
            assert caught.value.hint
    applied = memit_vc.apply_state(model, repository, "HEAD~3")
    with pytest.raises(UsageError, match="revision is None, not a text"):
        applied.switch(None)  # type: ignore[arg-type]
    assert same(tensors(model), before)
    with pytest.raises(UsageError, match="the model is a NoneType"):
        memit_vc.apply_state(None, repository)


@pytest.mark.parametrize(
    "given",
    [
        {"nonsense": 3},
        {"device": "cpu"},
        {"dtype": "nonsense"},
        {"dtype": b"x"},
        {"device_map": []},
        {"device_map": {"": 3.5}},
        {"use_cache": "x"},
        {"output_loading_info": True},
    ],
)
def test_arguments_that_transformers_refuses_are_named(opened: Opened, given: dict[str, Any]) -> None:
    name = next(iter(given))
    with pytest.raises(UsageError, match=name) as caught:
        memit_vc.from_pretrained(opened("llama"), **given)
    assert caught.value.hint


def test_arguments_that_transformers_explains(opened: Opened) -> None:
    for given in ({"dtype": 3}, {"device_map": "nonsense"}):
        with pytest.raises(UnsupportedModelError, match=next(iter(given))):
            memit_vc.from_pretrained(opened("llama"), **given)


def test_an_error_without_arguments_stays_what_it_is(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    def fails(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("out of memory") if "dtype" in asked else TypeError("a fault of its own")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fails)
    asked: dict[str, Any] = {}
    with pytest.raises(TypeError, match="a fault of its own"):
        memit_vc.from_pretrained(opened("llama"))
    asked["dtype"] = "auto"
    with pytest.raises(torch.OutOfMemoryError):
        memit_vc.from_pretrained(opened("llama"), **asked)


def test_a_device_map(opened: Opened) -> None:
    pytest.importorskip("accelerate")
    repository = opened("llama")
    found = memit_vc.from_pretrained(repository, device_map="cpu")
    assert torch.equal(logits(found), logits(memit_vc.from_pretrained(repository)))


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, memit_vc; assert 'from_pretrained' in dir(memit_vc); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def _merged_adapter(model: torch.nn.Module, name: str) -> None:
    """What merging an adapter does: a small update of low rank to one matrix; norms and biases stay."""
    weight = dict(model.named_parameters())[name]
    random = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, 2, generator=random) for size in weight.shape)
    with torch.no_grad():
        weight += (0.01 * left @ right.T).to(weight.dtype)


@pytest.mark.parametrize("kind", ["gpt2", "llama-bf16"])
def test_a_changed_matrix_is_another_model(opened: Opened, kind: str) -> None:
    """One that edits touch, at the base and on a state, and one that they do not."""
    repository = opened(kind)
    base = Path(repository.config.base)
    edited = [weight.parameter for weight in repository.weights()]
    other = next(n for n, p in plain_model(base).named_parameters() if p.dim() == 2 and n not in edited)
    for name in (edited[1], edited[3], other):
        for revision in (None, "HEAD"):
            model = plain_model(base) if revision is None else memit_vc.from_pretrained(repository, revision)
            _merged_adapter(model, name)
            before = tensors(model)
            with pytest.raises(BaseChangedError, match=f"its states: {re.escape(name)}"):
                memit_vc.apply_state(model, repository)
            assert same(tensors(model), before)


def test_every_state_is_known_again(opened: Opened) -> None:
    repository = opened("llama-bf16")
    for dtype in (torch.bfloat16, torch.float32):
        for revision in ("HEAD", "HEAD~1", "HEAD~2"):
            model = memit_vc.from_pretrained(repository, revision, dtype=dtype)
            memit_vc.apply_state(model, repository, "HEAD~1")
            assert same(tensors(model), tensors(memit_vc.from_pretrained(repository, "HEAD~1", dtype=dtype)))


def test_a_model_of_the_caller_is_not_loaded(opened: Opened) -> None:
    repository = opened("gpt2")
    with pytest.raises(UsageError, match="loads the model itself"):
        memit_vc.from_pretrained(repository, model=plain_model(Path(repository.config.base)))


def test_a_flipped_bit_of_the_base_reaches_no_model(opened: Opened, tmp_path: Path) -> None:
    """Size and date stay, so only the bytes tell."""
    repository = opened("llama-bf16")
    memit_vc.from_pretrained(repository, "HEAD")
    moved = tmp_path / "base"
    shutil.copytree(repository.config.base, moved)
    repository.config = replace(repository.config, base=str(moved))
    checkpoint = checked_base(repository)
    file, entry = checkpoint.tensors[repository.weights()[1].name]
    at = checkpoint.files[file].data_start + entry.begin + 8
    flip(moved / file, share=at / (moved / file).stat().st_size)
    for use in (
        lambda: memit_vc.from_pretrained(repository, "HEAD"),
        lambda: export_merged(repository, "HEAD", tmp_path / "merged"),
        lambda: load_model(repository).base_weight(repository.weights()[1].layer),
    ):
        with pytest.raises(BaseChangedError, match="is not the one that init recorded"):
            use()
    assert not (tmp_path / "merged").exists()


def test_a_model_that_was_cast_meanwhile_stays_of_one_dtype(opened: Opened) -> None:
    repository = opened("llama")
    model = memit_vc.from_pretrained(repository, "HEAD~3")
    before = tensors(model)
    applied = memit_vc.apply_state(model, repository)
    model.to(torch.bfloat16)
    applied.restore()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert same(tensors(model), {name: tensor.to(torch.bfloat16) for name, tensor in before.items()})
