"""A pulled history does not speak to the terminal."""

from __future__ import annotations

import io
import json

import pytest

from memit_vc.cli.terminal import shown
from tests.support.forge import Forge
from tests.support.places import Cli
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


def test_what_is_ours_passes() -> None:
    for bars, text in ((False, "\x1b[31mred\x1b[0m\t1\n"), (True, "\x1b[2K\x1b[1A\r\x1b[?25l half \x1b[38;5;237m")):
        there = io.StringIO()
        shown(there, bars=bars).write(text)
        assert there.getvalue() == text
    there = io.StringIO()
    shown(there, bars=True).write("\x1b]0;x\x07")
    assert there.getvalue() == "\\x1b]0;x\\x07"
