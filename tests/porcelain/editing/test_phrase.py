"""`phrase`: what of a chat model's answer becomes a phrasing; wordings of the phrase book, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memit_vc.edits import read_edits
from memit_vc.errors import StorageError, UnsupportedModelError
from memit_vc.numerics.forward.phrasebook import PhraseBook
from memit_vc.objects import Fact
from memit_vc.porcelain.editing import phrase as phrasing
from tests.support.models import load, tiny
from tests.support.places import Cli

FACT = Fact(
    prompt="The capital of Norland is",
    subject="Norland",
    target="Tessaly",
    ground_truth="Varn",
    paraphrases=("Norland is governed from",),
)


def test_only_usable_lines_are_taken() -> None:
    lines = [
        "Here are three ways:",
        "1. The capital city of Norland is",
        '- "Norland has its capital in Varn."',
        "* Norland is governed from",
        "The capital of Norland is ...",
        "The capital of Sudland is",
        "Norland",
        "2) The capital city of Norland is …",
    ]
    assert phrasing._usable(FACT, lines) == ["The capital city of Norland is", "Norland has its capital in"]


def test_a_model_that_cannot_chat_is_refused(tmp_path: Path) -> None:
    adapter = load(tiny("gpt2", tmp_path / "base"))
    with pytest.raises(UnsupportedModelError, match="not a chat model"):
        phrasing.phrase([FACT], adapter.model, adapter.tokenizer)


def test_the_book_needs_neither_a_model_nor_a_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = Cli(tmp_path, capsys, monkeypatch)
    records = [
        {
            "prompt": "The capital of {} is",
            "subject": "Norland",
            "target_new": "Tessaly",
            "phrasings": ["Norland rules from"],
        },
        {"prompt": "{} is fond of", "subject": "Norland", "target_new": "Tessaly"},
    ]
    out = tmp_path / "new" / "out.json"
    done = cli.ok("phrase", "-", "-o", out, "--book", "-n", "2", "--json", stdin=json.dumps(records))
    assert json.loads(done.out) == {"output": str(out), "facts": 2, "phrasings": 2, "without": 1}
    one, other = read_edits(str(out)).facts
    assert one.phrasings == ("Norland rules from", "Norland has its capital in", "Norland's capital city is")
    assert other.phrasings == ()
    written = out.read_bytes()
    again = cli("phrase", out, "-o", out, "--book")
    assert (again.code, "exists already" in again.err) == (2, True)
    assert out.read_bytes() == written

    late = tmp_path / "late.json"
    monkeypatch.setattr(PhraseBook, "added", lambda _, facts, __: late.write_text("mine") and list(facts))
    refused = cli("phrase", out, "-o", late, "--book")
    assert (refused.code, "exists already" in refused.err, late.read_text()) == (2, True, "mine")


@pytest.mark.parametrize("damaged", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_chat_model_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    cli = Cli(tmp_path, capsys, monkeypatch)
    place = tiny("llama", tmp_path / "model")
    (place / damaged).write_text('{"version": "1.0", "model": {"type": "Nope"}}')
    record = json.dumps([{"prompt": "{} is in", "subject": "Norland", "target_new": "Tessaly"}])
    done = cli("phrase", "-", "-o", tmp_path / "out.json", "--with", place, stdin=record)
    assert (done.code, f"{str(place)!r} cannot be loaded" in done.err) == (UnsupportedModelError.exit_code, True)
    assert not (tmp_path / "out.json").exists()


def test_an_output_that_cannot_be_written_is_noticed_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = Cli(tmp_path, capsys, monkeypatch)
    (tmp_path / "file").touch()
    (tmp_path / "nowhere.json").symlink_to("gone")
    for output, code in ((tmp_path / "file" / "out.json", StorageError.exit_code), (tmp_path / "nowhere.json", 2)):
        assert cli("phrase", "-", "-o", output, "--with", "no-such-model", stdin="[]").code == code
    done = cli("phrase", tmp_path / "none.json", "-o", tmp_path / "new" / "out.json", "--book")
    assert "none.json" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "nowhere.json"]


def test_two_sources_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = Cli(tmp_path, capsys, monkeypatch)
    done = cli("phrase", "-", "-o", tmp_path / "out.json", "--book", "--with", "model", stdin="[]")
    assert done.code == 2
    assert "Leave one out" in done.err
    assert not (tmp_path / "out.json").exists()
