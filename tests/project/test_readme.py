"""README.md is run: its console blocks in order, in one directory, on a tiny model.

A comment before a block says what is to be done with it: `<!-- test: tiny -->` runs it, anything else or nothing only
has its commands looked up. MODEL stands for a model directory; the README's JSON list is edits.json.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from memit_vc.cli import main
from memit_vc.cli.main import cli as group
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.models import tiny
from tests.support.paths import ROOT
from tests.support.transcripts import CUTS, normal

README = ROOT / "README.md"
_BLOCK = re.compile(r"(?:<!-- test: (\w+) -->\n)?^```(console|json)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHELL = re.compile(r"[|<>;&$`]")


@dataclass(frozen=True)
class Block:
    mark: str | None
    language: str
    text: str

    def steps(self) -> list[tuple[str, list[str]]]:
        """Each command with the lines that are printed under it."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found and line.strip():
                found[-1][1].append(line)
        return found


def blocks() -> list[Block]:
    return [Block(*found.groups()) for found in _BLOCK.finditer(README.read_text(encoding="utf-8"))]


def run(command: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and all output. memitvc runs in this process, so that torch is imported once."""
    words = shlex.split(command, comments=True)
    if words[:1] == ["memitvc"] and not _SHELL.search(command.partition("#")[0]):
        said = io.StringIO()
        with monkeypatch.context() as patched, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            patched.chdir(directory)
            code = main(words[1:])
        return code, said.getvalue()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    made = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=directory,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return made.returncode, made.stdout


def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [block for block in blocks() if block.language == "console" and block.mark == "tiny"]
    if not wanted:
        pytest.skip("README.md has no block to run")
    model = tiny("llama", tmp_path / "smollm2")
    lists = [block.text for block in blocks() if block.language == "json" and isinstance(json.loads(block.text), list)]
    work = tmp_path / "work"
    work.mkdir()
    if lists:
        (work / "edits.json").write_text(lists[0], encoding="utf-8")
    for block in wanted:
        for command, expected in block.steps():
            code, printed = run(re.sub(r"\bMODEL\b", shlex.quote(str(model)), command), work, monkeypatch)
            assert code == 0, f"$ {command}\n{printed}"
            lines = iter([normal(line) for line in printed.splitlines()])
            for line in expected:
                if line.strip() not in CUTS:
                    assert normal(line) in lines, f"$ {command}\nprints no {line!r} (in this order):\n{printed}"
    with Repository.open(work) as repository:
        assert fsck(repository) == ([], 0)


def test_every_command_of_the_readme_exists() -> None:
    for block in blocks():
        for command, _ in block.steps() if block.language == "console" else []:
            words = shlex.split(command, comments=True)
            if words[:1] != ["memitvc"]:
                continue
            context = group.make_context("memitvc", list(words[1:]) or ["--help"], resilient_parsing=True)
            name = next((word for word in words[1:] if not word.startswith("-")), None)
            found = None if name is None else group.get_command(context, name)
            assert name is None or found is not None, command
            if found is not None:
                known = {option for parameter in found.params for option in parameter.opts}
                given = {word.partition("=")[0] for word in words[2:] if word.startswith("-") and len(word) > 1}
                assert given <= known | {"--help", "-h"}, command
