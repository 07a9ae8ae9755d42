"""A switch that is killed: the weights are one state or the other, `verify` says which, the next switch mends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memit_vc.cli import main
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.output import checkout as numerics
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.verify import verify
from memit_vc.porcelain.upkeep.fsck import fsck
from tests.support.opened import Opened


class Killed(BaseException):
    """Nothing after it runs."""


def test_a_switch_killed_before_the_record(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = opened("llama")
    new = repository.state_id(repository.state(repository.resolve("HEAD")))
    old = repository.state_id(repository.state(repository.resolve("HEAD~1")))
    out = checkout(repository, "HEAD~1", tmp_path / "out").directory
    assert verify(repository, out).recorded is None

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(numerics, "_write_record", killed)
        with pytest.raises(Killed):
            checkout(repository, "HEAD", out, replace=True)
    found = verify(repository, out)
    assert (found.state, found.recorded) == (new, old)
    capsys.readouterr()
    assert main(["-C", str(repository.directory), "verify", str(out), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["recorded"] == old
    assert "--in-place" in said.err
    assert main(["-C", str(repository.directory), "checkout", "HEAD", "--in-place", str(out)]) == 0
    mended = verify(repository, out)
    assert (mended.state, mended.recorded) == (new, None)
    assert fsck(repository)[0] == []


def test_a_switch_killed_while_it_wrote_leaves_nothing_for_long(opened: Opened, tmp_path: Path) -> None:
    repository = opened("llama")
    out = checkout(repository, "HEAD~1", tmp_path / "out").directory
    names = {path.name for path in out.iterdir()}
    (out / "model-hot.safetensors.tmp-0123456789ab").write_bytes(b"half")
    assert verify(repository, out).recorded is None
    checkout(repository, "HEAD", out, replace=True)
    assert {path.name for path in out.iterdir()} == names
    assert verify(repository, out).state == repository.state_id(repository.state(repository.resolve("HEAD")))
    assert fsck(repository)[0] == []


def test_a_switch_brings_back_what_the_directory_lacks(opened: Opened, tmp_path: Path) -> None:
    repository = opened("llama")
    out = checkout(repository, "HEAD~1", tmp_path / "out").directory
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "config.json").unlink()
    (out / "config.json.tmp-0123456789ab").write_bytes(b"half")
    (out / "tokenizer.json").write_text("mine")
    next(out.glob("model-cold*")).unlink()
    checkout(repository, "HEAD~1", out, replace=True)
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert after.pop("tokenizer.json") == b"mine"
    assert after == {name: data for name, data in before.items() if name != "tokenizer.json"}
    assert fsck(repository)[0] == []


def test_a_checkout_switches_between_commits_that_edit_other_layers(opened: Opened, tmp_path: Path) -> None:
    """The hot shard holds whatever a patch of the repository touches, not what hparams.yaml names at the moment."""
    repository = opened("llama")
    values = MEMITHyperParams.from_hparams(repository.hparams_path)
    assert len(values.layers) > 1
    out = checkout(repository, "HEAD", tmp_path / "out").directory
    repository.hparams_path.write_text(values.replace(layers=values.layers[:1]).to_yaml())
    base = repository.log([repository.head().commit])[-1].id
    checkout(repository, base, out, replace=True)
    assert verify(repository, out).is_base
    checkout(repository, "HEAD", out, replace=True)
    assert verify(repository, out).commits[0] == repository.head().commit


def test_a_patch_of_another_layer_spoils_no_checkout(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = opened("llama")
    out = checkout(repository, "HEAD", tmp_path / "out").directory
    every = [weight.name for weight in repository.weights()]
    assert len(every) > len(repository.edited_weights())
    monkeypatch.setattr(type(repository), "edited_weights", lambda _: set(every))
    checkout(repository, "HEAD~1", out, replace=True)
    assert verify(repository, out).commits[0] == repository.resolve("HEAD~1")
    checkout(repository, "HEAD", tmp_path / "wide")
    checkout(repository, "HEAD", out, replace=True)
    assert verify(repository, out).commits[0] == repository.head().commit


def test_the_working_directory_is_switched_in_place(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is replaced there, so it may be where one stands."""
    repository = opened("llama")
    out = checkout(repository, "HEAD~1", repository.directory / "model").directory
    monkeypatch.chdir(out)
    assert main(["checkout", "HEAD", "--in-place", "."]) == 0
    assert verify(repository, out).state == repository.state_id(repository.state(repository.resolve("HEAD")))
