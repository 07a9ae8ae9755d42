"""States on a model in memory: the checkout's bytes, and the model given back to the bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import memit_vc
from memit_vc.errors import BaseChangedError, RevisionError, UnsupportedModelError, UsageError
from memit_vc.porcelain.output.checkout import checkout
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
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(0.1)
    before = tensors(other)
    with pytest.raises(BaseChangedError, match=r"norm\.weight"):
        memit_vc.apply_state(other, repository)
    with pytest.raises(UnsupportedModelError, match="no float parameter"):
        memit_vc.apply_state(plain_model(tiny("gpt2", tmp_path / "gpt2")), repository)
    assert same(tensors(other), before)
    with pytest.raises(UsageError, match="no memit-vc repository"):
        memit_vc.from_pretrained(tmp_path / "gpt2")
    with pytest.raises(UsageError, match="no memit-vc repository"):
        memit_vc.from_pretrained("some-model")
    with pytest.raises(UsageError, match="trust_remote_code"):
        memit_vc.from_pretrained(repository, trust_remote_code=True)


def test_a_device_map(opened: Opened) -> None:
    pytest.importorskip("accelerate")
    repository = opened("llama")
    found = memit_vc.from_pretrained(repository, device_map="cpu")
    assert torch.equal(logits(found), logits(memit_vc.from_pretrained(repository)))


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, memit_vc; assert 'from_pretrained' in dir(memit_vc); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
