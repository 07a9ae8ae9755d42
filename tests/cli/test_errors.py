"""Bad input: the message says what, where and what to do, the exit code is the documented one, nothing changes."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine, event

from memit_vc.cli import main
from memit_vc.edits import sources as sources_module
from memit_vc.hparams import MEMITHyperParams
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.places import FIRST, SECOND, Cli, Place, Result, contents

RECORD = {"prompt": "The official religion of Pellan is", "subject": "Pellan", "target_new": "football"}


@pytest.fixture
def refused(cli: Cli) -> Callable[..., Result]:
    """`refused(code, "words", …, "command", "argument", …)`: the command fails so, and changes nothing."""

    def run(code: int, said: list[str], *arguments: str | Path, stdin: str = "") -> Result:
        before = contents(cli.work)
        shown = cli(*map(str, arguments), stdin=stdin)
        assert shown.code == code, shown.err
        assert "Traceback" not in shown.err
        assert shown.out == ""
        assert shown.err.startswith("error: ")
        assert "\nhint: " in shown.err
        for words in said:
            assert words in shown.err
        told = cli(*map(str, arguments), "--json", stdin=stdin)
        assert told.code == told.error["exit_code"] == code
        assert told.out == ""
        assert told.error["message"] in shown.err
        assert told.error["hint"] in shown.err
        assert contents(cli.work) == before
        return shown

    return run


def edits(place: Place, *records: dict[str, Any]) -> str:
    path = place.work / "edits.json"
    path.write_text(json.dumps(list(records)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{", ["edits.json: line 1, column 3: not JSON"]),
        ("hello", ["edits.json: line 1, column 1: not JSON"]),
        (
            json.dumps([RECORD, RECORD, {"subject": "Pellan", "target_new": "x"}]),
            ['record 3: "prompt" is missing', "Its keys are: subject, target_new"],
        ),
        (json.dumps([{**RECORD, "subject": "Norland"}]), ["record 1", "'Norland' is not in the prompt"]),
        (json.dumps([{**RECORD, "target_new": "  "}]), ["record 1", '"target_new" is empty']),
        (json.dumps([{**RECORD, "subject": "", "prompt": "nobody knows"}]), ["record 1", '"subject" is missing']),
        ("", ["is empty"]),
        ("[]", ["no records"]),
    ],
    ids=["not JSON", "text", "no prompt", "subject elsewhere", "empty target", "no subject", "empty", "no records"],
)
def test_an_edit_file_that_cannot_be_read(
    refused: Callable[..., Result], place: Place, text: str, said: list[str]
) -> None:
    path = place.work / "edits.json"
    path.write_text(text, encoding="utf-8")
    refused(1, [*said, str(path)], "commit", path)


def test_a_file_that_is_not_there_or_not_readable(refused: Callable[..., Result], place: Place) -> None:
    refused(1, ["nosuch.json: no such file"], "commit", "nosuch.json")
    refused(1, ["is a directory"], "commit", place.work)
    path = place.work / "edits.json"
    path.write_bytes(b"\xff\xfe\x00x")
    refused(1, ["UTF-16"], "commit", path)


def test_a_file_without_permission(
    refused: Callable[..., Result], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(edits(place, RECORD))
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything
        original = sources_module.read_file

        def deny(source: Path, *, most: int) -> bytes:
            if source == path:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(source))
            return original(source, most=most)

        monkeypatch.setattr(sources_module, "read_file", deny)
    refused(1, ["edits.json: cannot be read: Permission denied", "permissions"], "commit", path)


def test_facts_that_contradict_each_other(refused: Callable[..., Result], place: Place) -> None:
    path = edits(place, RECORD, {**RECORD, "target_new": "medicine"})
    refused(13, ["edits.json: record 1 and record 2 contradict", "'football' and 'medicine'", "Pellan"], "commit", path)


def test_a_contradiction_with_a_live_fact(refused: Callable[..., Result], cli: Cli, place: Place) -> None:
    first = FIRST[0]
    record = {"prompt": first.prompt, "subject": first.subject, "target_new": "Madrid"}
    path = edits(place, record, RECORD)
    commit = cli.ok("log", "--json").json[0]["id"]
    said = [first.subject, "live 'Lisbon'", "new 'Madrid'", commit[:10], "--theirs", "--ours", "--keep-both"]
    refused(13, said, "commit", path)
    refused(1, ["nothing to commit"], "commit", edits(place, record), "--ours")

    def targets() -> list[str]:
        return [fact["target_new"] for fact in cli.ok("facts", "--json").json if fact["subject"] == first.subject]

    def commit_with(flag: str) -> None:
        assert cli.ok("commit", edits(place, record, RECORD), flag, "--no-scores").code == 0

    commit_with("--ours")
    assert targets() == ["Lisbon"]
    cli.ok("revert", "HEAD")
    commit_with("--keep-both")
    assert targets() == ["Lisbon", "Madrid"]
    cli.ok("revert", "HEAD")
    commit_with("--theirs")
    assert targets() == ["Madrid"]
    shown = cli.ok("show", "--json").json
    assert [fact["target_new"] for fact in shown["removed"]] == ["Lisbon"]
    cli.ok("revert", "HEAD")
    assert targets() == ["Lisbon"]


def test_stray_braces_in_a_prompt_are_text(cli: Cli, place: Place) -> None:
    prompts = ["In {Pellan} the law {0} of Pellan {is", "The {} of Pellan is"]
    path = edits(place, *({"prompt": p, "subject": "Pellan", "target_new": "old"} for p in prompts))
    cli.ok("commit", path, "--no-scores")
    assert [fact["prompt"] for fact in cli.ok("facts", "--json").json][-2:] == prompts


def test_what_is_live_already_is_nothing_to_commit(refused: Callable[..., Result], place: Place) -> None:
    refused(1, ["every fact is live already", "memitvc facts"], "commit", place.edits(FIRST))


@pytest.mark.parametrize(
    ("revision", "said"),
    [
        ("mian", ["no commit is called 'mian'", "Did you mean main?"]),
        ("HEAD~9", ["'HEAD~9'", "has only 1 commit before it"]),
        ("HEAD^2", ["has 1 parent, not 2"]),
        ("0badc0de", ["no commit is called '0badc0de'", "memitvc log"]),
        ("HEAD~x", ["not understood"]),
    ],
)
def test_a_revision_that_is_none(refused: Callable[..., Result], revision: str, said: list[str]) -> None:
    for command in (["show"], ["revert"], ["facts"], ["log"], ["eval"], ["checkout", "-o", "nowhere"]):
        refused(1, said, *command, revision)


def test_the_base_cannot_be_reverted(refused: Callable[..., Result]) -> None:
    refused(1, ["is the base itself", "memitvc log"], "revert", "HEAD~1")
    refused(1, ["changes nothing of a live fact 'Atlantis'", "memitvc facts"], "revert", "HEAD", "--fact", "Atlantis")


def test_no_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["log"], ["commit", "x.json"], ["fsck"]):
        assert main([arguments[0], "-C", str(tmp_path), *arguments[1:]]) == 10
        said = capsys.readouterr().err
        assert f"no memit-vc repository in {tmp_path}" in said
        assert "memitvc init BASE" in said


def test_usage(refused: Callable[..., Result], cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["comit"]) == 2
    assert "Did you mean 'commit'?" in capsys.readouterr().err
    assert cli("log", "--nosuch").code == 2
    assert cli("checkout").code == 2
    told = cli("checkout", "--json")
    assert told.code == told.error["exit_code"] == 2
    assert "--in-place" in told.error["message"]


def test_init_twice(refused: Callable[..., Result], place: Place) -> None:
    refused(1, [".memitvc exists already", "memitvc init BASE DIR"], "init", place.base)


# the base


@pytest.fixture
def own_base(place: Place, tmp_path: Path) -> Path:
    """A copy of the base that a test may damage, and config.toml pointing at it."""
    base = tmp_path / "own-base"
    shutil.copytree(place.base, base)
    config = place.work / ".memitvc" / "config.toml"
    config.write_text(config.read_text().replace(str(place.base), str(base)))
    return base


def test_a_base_that_changed(refused: Callable[..., Result], place: Place, own_base: Path) -> None:
    weights = own_base / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    path = place.edits(SECOND)
    said = ["own-base is not the one that init recorded", "model.layers.0.mlp.up_proj.weight", "original files"]
    refused(12, said, "commit", path)
    refused(12, said, "checkout", "-o", place.work / "out")
    assert not (place.work / "out").exists()


def test_a_base_that_is_gone(
    refused: Callable[..., Result], place: Place, own_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(own_base)
    path = place.edits(SECOND)
    refused(12, ["own-base is gone", "[base] source"], "commit", path)
    refused(12, ["own-base is gone", "[base] source"], "checkout", "-o", place.work / "out")
    # what needs no weights still works
    assert main(["log", "-C", str(place.work)]) == 0
    capsys.readouterr()
    assert main(["status", "-C", str(place.work)]) == 0
    assert "this directory is gone" in capsys.readouterr().out


def test_checkouts_outlive_the_base(cli: Cli, refused: Callable[..., Result], place: Place, own_base: Path) -> None:
    """Its shards were split once and hold all of it, for as long as nobody writes into them."""
    cli.ok("checkout", "-o", place.work / "before")
    shutil.rmtree(own_base)
    made = cli.ok("checkout", "-o", place.work / "after")
    assert "own-base is gone" in made.err
    assert "split base" in made.err
    after = {path.name: path.read_bytes() for path in (place.work / "after").iterdir()}
    assert after == {path.name: path.read_bytes() for path in (place.work / "before").iterdir()}
    cli.ok("checkout", "HEAD~1", "--in-place", place.work / "after")
    (cold,) = (place.work / ".memitvc" / "base").glob("*/model-cold-*.safetensors")
    whole = cold.read_bytes()
    cold.chmod(0o644)
    cold.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(12, ["own-base is gone"], "checkout", "-o", place.work / "third")
    assert not (place.work / "third").exists()
    cold.write_bytes(whole)
    cli.ok("checkout", "-o", place.work / "third")


@pytest.mark.parametrize(
    ("line", "first", "second"),
    [
        ("push --public --private", "--public", "--private"),
        ("revert HEAD --theirs --ours", "--theirs", "--ours"),
        ("commit x.json --keep-both --ours", "--keep-both", "--ours"),
    ],
)
def test_flags_that_say_different_things(refused: Callable[..., Result], line: str, first: str, second: str) -> None:
    refused(2, [f"{first} and {second} do not go together"], *line.split())


def test_a_flag_may_be_said_twice(cli: Cli) -> None:
    assert cli("revert", "HEAD", "--ours", "--ours").code == 0


def test_a_push_of_what_is_no_branch(cli: Cli, refused: Callable[..., Result], place: Place) -> None:
    cli.ok("remote", "add", "origin", str(place.work / "shared"))
    for name in ("HEAD", "nosuch", "main:main"):
        refused(1, [f"there is no branch {name!r}", "Name one of main"], "push", "origin", name)


def test_a_batch_of_which_nothing_stays(refused: Callable[..., Result], place: Place) -> None:
    other = [dataclasses.replace(FIRST[0], target="Atlantis")]
    refused(1, ["--ours keeps those", "Atlantis"], "commit", place.edits(other), "--ours")


def test_a_mistake_on_the_command_line_reads_as_every_other(cli: Cli) -> None:
    found = cli("checkout", "--onto", "x")
    assert found.code == 2
    assert found.err.startswith("error: No such option")
    assert "hint: `memitvc checkout --help`" in found.err


def refused_init(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """Exit code and message of `init`, which must leave nothing behind."""
    work = tmp_path / "new"
    capsys.readouterr()
    code = main(["init", str(base), str(work), *options])
    assert not (work / ".memitvc").exists()
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "\nhint: " in said
    return code, said


@pytest.fixture
def damaged(finished: Place, tmp_path: Path) -> Path:
    """A copy of the tiny model to spoil."""
    shutil.copytree(finished.base, tmp_path / "damaged")
    return tmp_path / "damaged"


def test_a_nan_in_an_edited_tensor(damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 4] = torch.nan
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    code, said = refused_init(tmp_path, damaged, capsys)
    assert code == 1
    assert "model.layers.1.mlp.down_proj.weight: 1 of 5120 entries are NaN or infinite" in said


def test_an_unknown_model_type(damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps({**config, "model_type": "nosuch"}))
    code, said = refused_init(tmp_path, damaged, capsys)
    assert code == 1
    assert "nosuch" in said
    assert "transformers cannot make a causal language model of this" in said


def test_a_slow_tokenizer(damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (damaged / name).unlink(missing_ok=True)
    (damaged / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    code, said = refused_init(tmp_path, damaged, capsys)
    assert code == 1
    assert "ByT5Tokenizer gives no character offsets" in said
    assert "tokenizer.json" in said


def test_a_directory_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert refused_init(tmp_path, tmp_path / "empty", capsys)[0] == 1
    code, said = refused_init(tmp_path, tmp_path / "missing", capsys)
    assert code == 1
    assert "missing is not a directory" in said


def test_truncated_weights(damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, said = refused_init(tmp_path, damaged, capsys)
    assert code in (1, 12)
    assert "model.safetensors" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("v_lr: 0.5", ("v_lr", "v_lr: fast")),
        ("layers:", ("layr", "layr:")),
        ("layers: [1, 2]", ("layers", "layers: [1, 99]")),
        ("model.layers.{}.mlp.down_proj", ("nosuch", "model.layers.{}.nosuch")),
    ],
)
def test_hyperparameters(refused: Callable[..., Result], place: Place, change: str, said: tuple[str, str]) -> None:
    good = (place.work / ".memitvc" / "hparams.yaml").read_text()
    bad = place.work / "bad.yaml"
    replaced = good.replace(change, said[1])
    if replaced == good:  # written over several lines
        replaced = good.replace("layers:\n- 1\n- 2\n", said[1] + "\n")
    assert replaced != good
    bad.write_text(replaced)
    path = place.edits(SECOND)
    refused(1, ["bad.yaml", said[0]], "commit", path, "--hparams", bad)
    refused(1, ["nosuch"], "commit", path, "--hparams", "nosuch")


# statistics


def test_missing_statistics_files(refused: Callable[..., Result], place: Place) -> None:
    path = place.edits(SECOND)
    refused(1, ["nosuch.txt", "cannot be read"], "commit", path, "--corpus", "nosuch.txt")
    refused(1, ["nosuch: there are no statistics"], "stats", "--import", "nosuch")
    (place.work / "x.csv").write_text("a,b")
    refused(2, ["x.csv"], "stats", "--corpus", place.work / "x.csv")


def test_options_that_would_not_be_used(refused: Callable[..., Result], place: Place) -> None:
    refused(2, ["--corpus, --tokens would not be used"], "stats", "--import", "x", "--tokens", "9", "--corpus", "self")
    refused(2, ["--field body would not be used", "plain text"], "stats", "--corpus", place.text, "--field", "body")
    refused(2, ["--field body would not be used", "pydoc"], "stats", "--corpus", "pydoc", "--field", "body")
    refused(
        2, ["--patch does not use --no-scores, --tokens"], "commit", "--patch", "ab", "--tokens", "9", "--no-scores"
    )
    refused(2, ["does not use --message"], "commit", "--patch", "ab", "--drop", "-m", "x")
    refused(2, ["--amend without EDITS does not use --corpus"], "commit", "--amend", "-m", "x", "--corpus", "self")


def test_lost_statistics_are_computed_again(cli: Cli, place: Place) -> None:
    for path in (place.work / ".memitvc" / "statistics").rglob("*"):
        if path.is_file():
            path.unlink()
    cli.ok("commit", place.edits(SECOND), "--no-scores")


# the disk


@contextmanager
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 4 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def after_failure(place: Place, before: str) -> None:
    """The repository is as it was, but for objects that no row names; and the next commit works."""
    with Repository.open(place.work) as repository:
        problems, _ = fsck(repository)
        assert problems == []
        for blob in repository.orphans():
            repository.blobs.remove(blob)
    assert contents(place.work) == before


def test_no_space_for_objects(cli: Cli, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before, path = contents(place.work), place.edits(SECOND)

    fsync = os.fsync

    def full(descriptor: int) -> None:
        if "/objects/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        failed = cli("commit", path, "--no-scores")
    assert failed.code == 1
    assert "No space left on device" in failed.err
    assert "memitvc gc" in failed.err
    after_failure(place, before)
    cli.ok("commit", path, "--no-scores")


def test_files_that_may_not_grow(cli: Cli, place: Place) -> None:
    before, path = contents(place.work), place.edits(SECOND)
    with small_files():
        failed = cli("commit", path, "--no-scores")
    assert failed.code == 1
    assert "Traceback" not in failed.err
    assert "File too large" in failed.err or "disk" in failed.err
    after_failure(place, before)


def test_no_space_for_rows(cli: Cli, place: Place) -> None:
    before, path = contents(place.work), place.edits(SECOND)

    def small(connection: sqlite3.Connection, _: object) -> None:
        # SQLite does not go below the present size, so this is a disk without another free page
        connection.execute("PRAGMA max_page_count = 1")

    event.listen(Engine, "connect", small)
    try:
        # longer than what is free in the pages that are there
        failed = cli("commit", path, "--no-scores", "-m", "a long message " * 10_000)
    finally:
        event.remove(Engine, "connect", small)
    assert failed.code == 1
    assert "meta.db: No space left on device" in failed.err
    assert "hint: " in failed.err
    after_failure(place, before)
    cli.ok("commit", path, "--no-scores")


# interruption


_ANNOUNCED = """
import signal, sys
from memit_vc.numerics.edit import engine
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without one
search = engine.find
def announced(*arguments, **named):
    print("searching", flush=True)
    return search(*arguments, **named)
engine.find = announced
from memit_vc.cli import main
from memit_vc.hparams import MEMITHyperParams
sys.exit(main(sys.argv[1:]))
"""


def test_control_c_leaves_nothing_half_done(cli: Cli, place: Place) -> None:
    values = MEMITHyperParams.from_hparams(place.work / ".memitvc" / "hparams.yaml")
    values.v_num_grad_steps, values.early_stop_loss = 1_000_000, 0.0
    (place.work / "long.yaml").write_text(values.to_yaml())
    before = contents(place.work)
    arguments = ["commit", place.edits(SECOND), "--hparams", str(place.work / "long.yaml"), "--no-scores"]
    running = subprocess.Popen(
        [sys.executable, "-c", _ANNOUNCED, *arguments, "-C", str(place.work)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "searching\n"
    running.send_signal(signal.SIGINT)
    _, err = running.communicate()
    assert running.returncode == 130
    told = "interrupted: either everything was done or nothing; check with `memitvc op log`"
    assert told in err.splitlines()  # behind the progress that a slow machine shows
    assert contents(place.work) == before
    assert cli.ok("fsck", "--json").json == {"ok": True, "problems": [], "orphans": 0, "rebuilt": None}


def test_sources_that_are_none(refused: Callable[..., Result], place: Place) -> None:
    refused(
        1,
        ["corpus nope cannot be read: there is no such file", "hub:owner/name"],
        "init",
        place.base,
        "new",
        "--corpus",
        "nope",
    )
    assert not (place.work / "new").exists()
    refused(14, ["nowhere: there is no such directory"], "clone", "./nowhere", "copy")
    name = edits(place, RECORD)
    refused(2, ["edits.json: is JSON, not a patch file", "memitvc commit"], "import", name)


def test_places_that_are_something_else(refused: Callable[..., Result], cli: Cli, place: Place) -> None:
    refused(2, ["nosuch: there is no such checkout", "-o nosuch"], "checkout", "--in-place", "nosuch")
    refused(14, ["is a working repository, not a remote"], "clone", str(cli.work), "copy")
    cli.ok("remote", "add", "peer", str(cli.work))
    refused(14, ["is a working repository, not a remote", "a directory of its own"], "push", "peer")


def test_a_fact_that_another_commit_brought(refused: Callable[..., Result], cli: Cli, place: Place) -> None:
    cli.ok("commit", place.edits(SECOND))
    subject, first = FIRST[0].subject, cli.ok("log", "--json").json[1]["id"][:10]
    refused(1, [f"It came in with commit {first}: memitvc revert {first} --fact"], "revert", "HEAD", "--fact", subject)
