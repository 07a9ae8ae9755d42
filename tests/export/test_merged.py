"""Plain checkpoints: the checkout's tensors, in any shard size and dtype, without a trace of memit-vc."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from memit_vc.cli import main
from memit_vc.errors import UsageError
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.export_merged import export_merged
from memit_vc.store.checkpoint import hash_directory
from tests.export.conftest import Opened, plain_model


@pytest.mark.parametrize("size", ["infGB", "nanGB", "1e400GB", f"{10**400}GB", "0GB", "-3GB", "5 cats", "GB", ""])
def test_a_size_that_is_none(opened: Opened, tmp_path: Path, size: str) -> None:
    with pytest.raises(UsageError, match="--max-shard-size") as caught:
        export_merged(opened("gpt2"), "HEAD", tmp_path / "out", max_shard_size=size)
    assert caught.value.hint
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.parametrize("kind", ["gpt2", "llama-bf16"])
@pytest.mark.parametrize("size", ["5GB", "0.05MB"])
def test_the_tensors_are_the_checkouts(opened: Opened, tmp_path: Path, kind: str, size: str) -> None:
    repository = opened(kind)
    made = export_merged(repository, "HEAD~1", tmp_path / "merged", max_shard_size=size)
    assert hash_directory(made.directory) == hash_directory(checkout(repository, "HEAD~1", tmp_path / "out").directory)
    names = {path.name for path in made.directory.iterdir()}
    assert not any("memitvc" in name for name in names)
    base = {path.name for path in Path(repository.config.base).iterdir()}
    assert {name for name in base if not name.startswith("model")} <= names
    assert (len(made.files) > 2) is (size == "0.05MB")
    assert made.bytes == sum((made.directory / name).stat().st_size for name in made.files)
    assert all(not path.is_symlink() and path.stat().st_nlink == 1 for path in made.directory.iterdir())
    for file in made.files:
        if file.endswith(".safetensors"):
            with safe_open(made.directory / file, framework="pt") as opened_file:
                assert opened_file.metadata() == {"format": "pt"}
    loaded, expected = plain_model(made.directory).state_dict(), plain_model(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("kind", "dtype"), [("llama-bf16", "float32"), ("llama", "bfloat16"), ("llama", "float16")])
def test_another_dtype(opened: Opened, tmp_path: Path, kind: str, dtype: str) -> None:
    import memit_vc

    repository = opened(kind)
    made = export_merged(repository, "HEAD", tmp_path / "merged", dtype=dtype)
    assert json.loads((made.directory / "config.json").read_text())["dtype"] == dtype
    loaded = plain_model(made.directory)
    assert {parameter.dtype for parameter in loaded.parameters()} == {getattr(torch, dtype)}
    expected = memit_vc.from_pretrained(repository, dtype=getattr(torch, dtype)).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_wrong_settings_leave_nothing(opened: Opened, tmp_path: Path) -> None:
    repository = opened("llama")
    for settings, message in (
        ({"dtype": "int8"}, "int8"),
        ({"max_shard_size": "many"}, "many"),
    ):
        with pytest.raises(UsageError, match=message):
            export_merged(repository, "HEAD", tmp_path / "merged", **settings)
    assert not list(tmp_path.glob("merged*"))


def test_the_command_line(opened: Opened, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = str(opened("llama").directory)
    assert main(["-C", work, "export", "--merged", str(tmp_path / "m"), "--dtype", "bfloat16"]) == 0
    assert "1 file of weights" in capsys.readouterr().out
    assert main(["-C", work, "export", "--adapter", str(tmp_path / "a"), "--max-rank", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["ranks"].values()) == {5}
    assert main(["-C", work, "export", "--adapter", str(tmp_path / "b"), "HEAD~1.."]) == 0
    assert "not on the base" in capsys.readouterr().err
    assert main(["-C", work, "export", "--adapter", str(tmp_path / "a")]) == 2
