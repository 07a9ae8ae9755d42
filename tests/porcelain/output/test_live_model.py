"""A model that was loaded from a checkout is nobody's business any more: no later command may change it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from memit_vc.cli import main
from memit_vc.numerics.model.checkpoint_tensors import tensor_digest
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.verify import state_hashes
from memit_vc.porcelain.state import LiveState
from tests.support.opened import Opened, plain_model


def hashes(model: torch.nn.Module) -> dict[str, str]:
    return {name: tensor_digest(parameter) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", ["gpt2", "llama-bf16"])
def test_no_later_command_changes_a_live_model(opened: Opened, tmp_path: Path, kind: str) -> None:
    repository = opened(kind)
    work, out = str(repository.directory), checkout(repository, "HEAD", tmp_path / "out").directory
    model = plain_model(out)
    with safe_open(out / "model-hot.safetensors", framework="pt") as mapped:
        views = {name: mapped.get_tensor(name) for name in mapped.keys()}  # noqa: SIM118
    before, before_views = hashes(model), {name: tensor_digest(value) for name, value in views.items()}

    def unchanged() -> None:
        assert hashes(model) == before
        assert {name: tensor_digest(value) for name, value in views.items()} == before_views

    for arguments in (
        ["revert", "HEAD~1"],
        ["checkout", "HEAD", "--in-place", str(out)],
        ["checkout", "HEAD~2", "--in-place", str(out)],
        ["checkout", "HEAD~4", "--in-place", str(out)],
        ["checkout", "HEAD", "-o", str(tmp_path / "second")],
        ["export", "--merged", str(tmp_path / "merged")],
        ["export", "--adapter", str(tmp_path / "adapter")],
        ["verify", str(out)],
        ["undo"],
        ["gc", "--prune-operations", "--grace", "0"],
        ["fsck"],
    ):
        assert main(["-C", work, *arguments]) == 0, arguments
        unchanged()
    for path in (repository.root / "cache").rglob("*.safetensors"):
        path.unlink()
    unchanged()
    assert hashes(plain_model(out)) != before


@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama-bf16"])
def test_every_loader_sees_the_edited_values(opened: Opened, tmp_path: Path, kind: str) -> None:
    repository = opened(kind)
    wanted = state_hashes(LiveState.of_head(repository))
    base = {tensor.name: tensor.sha256 for tensor in repository.base().tensors}
    assert len(wanted) == 2
    assert all(base[name] != sha for name, sha in wanted.items())
    out = checkout(repository, "HEAD~1", tmp_path / "out").directory
    for replace in (False, True):
        target = checkout(repository, "HEAD", out if replace else tmp_path / "fresh", replace=replace).directory
        model = plain_model(target).state_dict()
        for weight in repository.weights():
            assert tensor_digest(model[weight.parameter]) == wanted.get(weight.name, base[weight.name])
        seen: dict[str, str] = {}
        for path in sorted(target.glob("*.safetensors")):  # every tensor of every shard, as vLLM reads them
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    assert name not in seen
                    value = file.get_tensor(name).contiguous().view(torch.uint8).numpy()
                    seen[name] = hashlib.sha256(value.tobytes()).hexdigest()
        assert seen == base | wanted


def test_the_cache_keeps_to_the_repositorys_limit(opened: Opened, tmp_path: Path) -> None:
    from dataclasses import replace

    from memit_vc.repository import Repository

    repository = opened("llama")
    checkout(repository, "HEAD", tmp_path / "a")
    kept = repository.root / "cache" / "hot"
    assert len(list(kept.glob("*.safetensors"))) == 1
    config = replace(repository.config, cache_bytes=0)
    (repository.root / "config.toml").write_bytes(config.dump())
    with Repository.open(repository.directory) as again:
        assert again.config == config
        checkout(again, "HEAD~1", tmp_path / "b")
    assert list(kept.glob("*.safetensors")) == []
