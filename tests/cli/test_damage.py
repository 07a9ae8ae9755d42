"""Damage that no row shows is found before anything is computed from it; nothing of the user's is taken for rubbish."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memit_vc.errors import BaseChangedError
from memit_vc.numerics.output import checkout as checkout_module
from memit_vc.objects import StateId
from memit_vc.porcelain import setup
from memit_vc.porcelain.output.recorded import record_hashes, recorded_hashes
from memit_vc.repository import Repository
from memit_vc.store.checkpoint import Checkpoint
from tests.support.flips import flip
from tests.support.places import Cli, Place, copy_of, make_place


@pytest.fixture
def damaged(finished: Place, tmp_path: Path) -> Place:
    """A copy that a test may break; it is not checked afterwards."""
    return copy_of(finished, tmp_path / "damaged")


def test_directories_with_similar_names_are_left_alone(cli: Cli, place: Place, tmp_path: Path) -> None:
    for name in ("out.tmp-backup", "out.tmp-1-notes", "other.tmp-abcdefabcdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").touch()
    cli.ok("checkout", "HEAD", "-o", tmp_path / "out")
    for name in ("out.tmp-backup", "out.tmp-1-notes", "other.tmp-abcdefabcdef"):
        assert (tmp_path / name / "precious").exists()


def test_a_damaged_hot_shard_is_built_again(cli: Cli, place: Place, tmp_path: Path) -> None:
    cli.ok("checkout", "HEAD", "-o", tmp_path / "right")
    cli.ok("checkout", "HEAD~1", "-o", tmp_path / "before")
    (shard,) = (place.work / ".memitvc" / "base").glob("*/model-hot.safetensors")
    data = bytearray(shard.read_bytes())
    data[-3] ^= 0x10
    shard.chmod(0o644)
    shard.unlink()
    shard.write_bytes(data)
    shutil.rmtree(place.work / ".memitvc" / "cache")  # a kept copy of the state would be as good
    cli.ok("checkout", "HEAD~1", "-o", tmp_path / "again")
    assert cli.ok("verify", tmp_path / "again", "--expect", "HEAD~1")
    for file in sorted((tmp_path / "before").glob("*.safetensors")):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def _overwrite(path: Path, at: int) -> None:
    """As somebody does who opens a file of a checkout and writes into it."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END)
        file.write(b"\x01\x02\x03\x04")


def test_a_cached_shard_whose_writer_was_killed_is_no_damage(cli: Cli, place: Place, tmp_path: Path) -> None:
    cli.ok("checkout", "HEAD", "-o", tmp_path / "out")
    (record,) = (place.work / ".memitvc" / "cache" / "hot").glob("*.json")
    record.unlink()
    cli.ok("fsck")
    assert list(record.parent.iterdir()) == []
    cli.ok("checkout", "HEAD", "-o", tmp_path / "again")


def test_a_write_into_a_checkout_does_not_reach_later_ones(cli: Cli, place: Place, tmp_path: Path) -> None:
    made = cli.ok("checkout", "HEAD", "-o", tmp_path / "first")
    assert made.err == ""
    (cold,) = (tmp_path / "first").glob("model-cold-*.safetensors")
    assert cold.stat().st_mode & 0o222 == 0
    (built,) = (place.work / ".memitvc" / "base").iterdir()
    assert cold.samefile(built / cold.name)
    _overwrite(cold, -200)

    for arguments in (["fsck"], ["fsck", "--quick"]):
        found = cli(*arguments)
        assert found.code == 12
        assert f"{built / cold.name} is not the base's" in found.out

    again = cli.ok("checkout", "HEAD~1", "-o", tmp_path / "second")
    assert "built again" in again.err
    assert cli.ok("verify", tmp_path / "second", "--expect", "HEAD~1")
    assert cli("verify", tmp_path / "first").code == 15
    assert cli.ok("checkout", "HEAD~1", "-o", tmp_path / "third").err == ""
    assert cli.ok("fsck")


def test_damaged_files_of_the_base_are_built_again(cli: Cli, place: Place, tmp_path: Path) -> None:
    cli.ok("checkout", "HEAD", "-o", tmp_path / "first")
    (built,) = (place.work / ".memitvc" / "base").iterdir()
    _overwrite(built / "files" / "config.json", -10)
    assert "config.json" in cli("fsck").out
    assert "built again" in cli.ok("checkout", "HEAD", "-o", tmp_path / "second").err
    assert (tmp_path / "second" / "config.json").read_bytes() == (place.base / "config.json").read_bytes()
    (cold,) = (tmp_path / "first").glob("model-cold-*.safetensors")
    (built / cold.name).unlink()
    assert "is missing" in cli("fsck").out
    assert cli.ok("checkout", "HEAD", "-o", tmp_path / "third")


def test_a_damaged_patch_is_not_materialised(
    damaged: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = Cli(damaged.work, capsys, monkeypatch)
    with Repository.open(damaged.work) as repository:
        (patch,) = repository.commit(repository.head().commit).patches
        path = repository.patch_path(patch)
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x80  # the sign of one factor: still on the grid
    path.chmod(0o644)
    path.write_bytes(data)
    failed = cli("checkout", "HEAD", "-o", tmp_path / "out")
    assert failed.code == 12
    assert "corrupt" in failed.err
    assert not (tmp_path / "out").exists()
    assert cli("fsck").code == 12


def test_a_base_that_changes_under_init_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_place(tmp_path, start=False)
    original = Checkpoint.file_hashes

    def late(checkpoint: Checkpoint) -> dict[str, str]:
        (made.base / "config.json").touch()
        return original(checkpoint)

    monkeypatch.setattr(Checkpoint, "file_hashes", late)
    with pytest.raises(BaseChangedError, match="changed while they were read"):
        setup.init(str(made.base), directory=made.work, hparams=tmp_path / "hparams.yaml")
    assert not (made.work / ".memitvc").exists()


def test_a_limit_without_scores_is_refused(cli: Cli, place: Place) -> None:
    edits = place.work / "edits.json"
    edits.write_text(json.dumps([{"prompt": "Ada was born in the city of", "subject": "Ada", "target_new": "Rome"}]))
    failed = cli("commit", edits, "--no-scores", "--require", "perplexity_rise <= 0")
    assert failed.code == 2
    assert "--no-scores" in failed.err


def test_verify_sees_missing_tensors_and_other_shapes(cli: Cli, place: Place, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(place.base / "model.safetensors")
    with Repository.open(place.work) as repository:
        name = repository.weights()[1].name
    for case, changed in {
        "gone": {n: t for n, t in tensors.items() if n != name},
        "turned": tensors | {name: tensors[name].reshape(tensors[name].shape[::-1]).contiguous()},
    }.items():
        directory = tmp_path / case
        directory.mkdir()
        save_file(changed, directory / "model.safetensors", metadata={"format": "pt"})
        failed = cli("verify", directory)
        assert failed.code == 15
        assert name in failed.err


@pytest.mark.parametrize(
    "text",
    [
        'base = "x"\n',
        '[base]\nsource = "x"\n[user]\nauthor = 5\n',
        "statistics = 3\n[base]\nsource = 'x'\n",
        "[base]\nsource = 'x'\n[cache]\nbytes = -1\n",
        "[base]\nsource = 'x'\n[policy]\nRequire = ['argmax >= 0.9']\n",
        "[base]\nsource = 'x'\n[policy]\nbounds = ['argmax >= 0.9']\n",
        "[base]\nsource = 'x'\n[polices]\nrequire = ['argmax >= 0.9']\n",
        "require = ['argmax >= 0.9']\n[base]\nsource = 'x'\n",
        "[base]\nsource = 'x'\n[Remote.origin]\nurl = 'y'\n",
    ],
)
def test_a_config_that_is_not_understood(damaged: Place, text: str, cli: Cli) -> None:
    (damaged.work / ".memitvc" / "config.toml").write_text(text)
    failed = Cli(damaged.work, cli.capsys, cli.monkeypatch)("log")
    assert failed.code == 1
    assert "config.toml" in failed.err


def test_a_setting_that_nobody_would_read_is_named(damaged: Place, cli: Cli) -> None:
    config = damaged.work / ".memitvc" / "config.toml"
    written, own = config.read_text(), Cli(damaged.work, cli.capsys, cli.monkeypatch)
    for text, said, meant in (
        ("[policy]\nRequire = []\n", "[policy] Require is not known", "Did you mean require?"),
        ("[policy]\nx = 1\n", "[policy] x is not known", "[policy] has require."),
        ("[polices]\n", "[polices] is not known", "Did you mean [policy]?"),
        ("[Policy]\n", "[Policy] is not known", "Did you mean [policy]?"),
        ("[remotes.origin]\nurl = 'x'\n", "[remotes] is not known", "Did you mean [remote]?"),
        ("[bounds]\nrequire = []\n", "[bounds] is not known", "Bounds are in [policy]."),
    ):
        config.write_text(f"{written}\n{text}")
        refused = own("log")
        assert (refused.code, said in refused.err, meant in refused.err) == (1, True, True)
    config.write_text(f"require = []\n{written}")
    assert "require is in no table\nhint: Write it below [policy]." in own("log").err
    config.write_text(
        f"version = 1\n{written}\n[notes]\nauthor = 'x'\n[tests]\n[stats]\n[case]\n[eval.url]\n[status]\n"
    )
    own.ok("log")


def test_bytes_that_are_no_text_are_refused(cli: Cli) -> None:
    failed = cli("branch", "caf\udcff")
    assert failed.code == 2
    assert "UTF-8" in failed.err


def test_verify_knows_states_that_were_undone(cli: Cli, place: Place, tmp_path: Path) -> None:
    head = cli.ok("log", "--json").json[0]["id"]
    cli.ok("checkout", "HEAD", "-o", tmp_path / "out")
    cli.ok("branch", "kept", "HEAD~1")
    cli.ok("switch", "kept")
    assert cli.ok("verify", tmp_path / "out", "--json").json["on_branch"] is True
    cli.ok("branch", "-D", "main")
    (tmp_path / "out" / "memitvc.json").unlink()
    found = cli.ok("verify", tmp_path / "out")
    assert "Two facts, on no branch (undone or replaced)" in found.out
    told = cli.ok("verify", tmp_path / "out", "--json").json
    assert (told["commits"], told["on_branch"], told["is_base"]) == ([head], False, False)
    assert cli("verify", tmp_path / "out", "--expect", "HEAD").code == 15


def test_lost_stamps_are_no_harm(cli: Cli, place: Place, tmp_path: Path) -> None:
    (place.work / ".memitvc" / "cache" / "base-files.json").write_text("[1]")
    cli.ok("checkout", "HEAD", "-o", tmp_path / "out")


def test_a_flipped_bit_never_becomes_the_truth(cli: Cli, place: Place, tmp_path: Path) -> None:
    """The state of a damaged hot shard was once computed, cached, and recorded as what `verify` goes by."""
    cli.ok("checkout", "HEAD", "-o", tmp_path / "right")
    (shard,) = (place.work / ".memitvc" / "base").glob("*/model-hot.safetensors")
    for cached in (place.work / ".memitvc" / "cache" / "hot").iterdir():
        cached.unlink()
    flip(shard)
    made = cli.ok("checkout", "HEAD", "-o", tmp_path / "again")
    assert "was damaged, changed or deleted after it was built, so it is built again" in made.err
    assert (tmp_path / "again" / shard.name).read_bytes() == (tmp_path / "right" / shard.name).read_bytes()
    assert cli.ok("verify", tmp_path / "right", "--expect", "HEAD")
    assert cli.ok("verify", tmp_path / "again", "--expect", "HEAD")


def test_fsck_keeps_its_promise_about_a_flipped_bit(cli: Cli, place: Place, tmp_path: Path) -> None:
    cli.ok("checkout", "HEAD", "-o", tmp_path / "right")
    (shard,) = (place.work / ".memitvc" / "base").glob("*/model-hot.safetensors")
    flip(shard)
    found = cli("fsck")
    assert found.code == 12
    assert "the next checkout builds it again" in found.out
    assert "built again" in cli.ok("checkout", "HEAD~1", "-o", tmp_path / "before").err
    assert cli.ok("fsck")
    assert cli.ok("verify", tmp_path / "before", "--expect", "HEAD~1")


def test_without_the_base_a_damaged_shard_stops_a_checkout(damaged: Place, cli: Cli, tmp_path: Path) -> None:
    own = Cli(damaged.work, cli.capsys, cli.monkeypatch)
    own.ok("checkout", "HEAD", "-o", tmp_path / "first")
    config = damaged.work / ".memitvc" / "config.toml"
    config.write_text(config.read_text().replace(str(damaged.base), str(tmp_path / "gone")))
    own.ok("checkout", "HEAD~1", "-o", tmp_path / "second")
    (shard,) = (damaged.work / ".memitvc" / "base").glob("*/model-cold*.safetensors")
    flip(shard)
    failed = own("checkout", "HEAD~1", "-o", tmp_path / "third")
    assert failed.code == 12
    assert "is gone" in failed.err
    assert not (tmp_path / "third").exists()


def _poison(place: Place) -> tuple[StateId, dict[str, str]]:
    """Wrong hashes of HEAD's state, with a digest that fits, as a memory error would leave them; the right ones."""
    with Repository.open(place.work) as repository:
        state = repository.state_id(repository.state(repository.head().commit))
        right = recorded_hashes(repository, state)
        assert right is not None
        record_hashes(repository, state, {**right, min(right): "0" * 64})
        return state, right


def test_wrong_recorded_hashes_are_taken_back(cli: Cli, place: Place, tmp_path: Path) -> None:
    cli.ok("checkout", "HEAD", "-o", tmp_path / "right")
    for mend in (["fsck", "--full"], ["checkout", "HEAD", "-o", tmp_path / "again"]):
        state, right = _poison(place)
        assert cli("verify", tmp_path / "right").code == 15
        done = cli(*mend)
        assert (done.code, "taken back" in done.out, "were wrong" in done.err) in ((12, True, False), (0, False, True))
        assert cli.ok("verify", tmp_path / "right", "--expect", "HEAD")
        with Repository.open(place.work) as repository:
            found = recorded_hashes(repository, state)
        assert found is not None
        assert {name: right[name] for name in found} == found


def test_two_results_of_one_computation_are_no_model(
    cli: Cli, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.ok("checkout", "HEAD", "-o", tmp_path / "right")
    _poison(place)
    real, calls = checkout_module.hot_shard, []

    def faulty(*arguments: Any) -> Iterator[Any]:
        yield from real(*arguments)
        calls.append(1)
        if len(calls) == 1:
            arguments[4][min(arguments[4])] = "1" * 64

    with monkeypatch.context() as patched:
        patched.setattr(checkout_module, "hot_shard", faulty)
        failed = cli("checkout", "HEAD", "-o", tmp_path / "out")
    assert failed.code == 12
    assert "computed twice, with two results" in failed.err
    assert not (tmp_path / "out").exists()
    assert cli("fsck", "--full").code == 12
