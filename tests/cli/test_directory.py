"""`-C DIR` is as good as `cd DIR`: every relative path of a command line is taken from there."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from memit_vc.cli import main
from memit_vc.edits import write_records
from tests.support.places import SECOND, Cli, Place, make_place


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with things of the same names, all of them wrong."""
    made = tmp_path / "elsewhere"
    made.mkdir()
    for name in ("edits.json", "text.txt", "hparams.yaml", "prompts.txt", "change.patch"):
        (made / name).write_text("not this one")
    for name in ("base", "model", "self", "shared"):
        (made / name).mkdir()
    monkeypatch.chdir(made)
    return made


def test_a_repository_is_started_with_relative_paths(
    elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_place(tmp_path / "made", start=False)
    assert place.base.name == "base"
    root = place.base.parent
    (root / "self").mkdir()
    given = ["base", "--hparams", "hparams.yaml", "--corpus", "text.txt", "--health", "text.txt", "--json"]
    assert main(["init", "-C", str(root), *given]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["base"] == str(place.base)
    assert made["directory"] == str(root)
    config = (root / ".memitvc" / "config.toml").read_text()
    assert config.count(json.dumps(str(place.text))) == 2
    assert main(["-C", str(tmp_path), "init", "-C", "made", "base", "other", "--corpus", "self", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["directory"] == str(root / "other")
    assert 'corpus = "self"' in (root / "other" / ".memitvc" / "config.toml").read_text()
    assert Path.cwd() == elsewhere


def test_every_command_takes_paths_from_there(elsewhere: Path, cli: Cli, place: Place) -> None:
    edits = write_records(SECOND, format="json")
    (place.work / "edits.json").write_text(edits)
    (place.work / "prompts.txt").write_text("The moon is made of")
    cli.ok("checkout", "HEAD", "-o", "model")
    assert (place.work / "model" / "memitvc.json").is_file()
    assert cli.ok("verify", "model").out.startswith("model is state")
    cli.ok("checkout", "HEAD~1", "--in-place", "model")
    assert cli.ok("eval", "--edits", "edits.json", "--no-perplexity", "--json").json["scores"]
    cli.ok("export", "--adapter", "adapter")
    cli.ok("export", "--merged", "merged")
    cli.ok("export", "--patch", "change.patch")
    assert (place.work / "adapter").is_dir()
    assert (place.work / "merged").is_dir()
    cli.ok("undo")
    cli.ok("import", "change.patch")
    cli.ok("diff", "--behaviour", "--prompts", "prompts.txt")
    assert cli.ok("remote", "add", "origin", "shared", "--json").json["url"] == str(place.work / "shared")
    cli.ok("push")
    cli.ok("clone", "shared", "copy", "--base", str(place.base))
    assert (place.work / "copy" / ".memitvc").is_dir()
    assert sorted(path.name for path in elsewhere.iterdir() if path.is_dir()) == ["base", "model", "self", "shared"]
    assert not any((elsewhere / "model").iterdir())
    code = "import os, sys; sys.exit(os.getcwd() != sys.argv[1])"
    cli.ok("bisect", "start", "HEAD", "HEAD~1")
    cli.ok("bisect", "run", sys.executable, "-c", code, os.path.realpath(place.work))
    cli.ok("bisect", "reset")


def test_paths_that_are_only_in_the_working_directory_are_not_taken(elsewhere: Path, cli: Cli, place: Place) -> None:
    for arguments in (
        ("commit", "edits.json"),
        ("verify", "model"),
        ("eval", "--edits", "edits.json"),
        ("import", "change.patch"),
        ("commit", place.edits(SECOND, "other.json"), "--hparams", "hparams.yaml"),
        ("stats", "--corpus", "text.txt"),
        ("diff", "--behaviour", "--prompts", "prompts.txt"),
    ):
        failed = cli(*arguments)
        assert failed.code in (1, 2), arguments
        assert "no such" in failed.err.lower() or "not a directory" in failed.err, failed.err


def test_a_directory_that_is_not_there(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "-C", str(tmp_path / "nowhere")]) == 2
    assert "No such file or directory" in capsys.readouterr().err
