"""Repositories on tiny models with everything at hand that a commit needs, and the command line run in this process."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memit_vc.cli import main
from memit_vc.edits import write_records
from memit_vc.objects import Fact
from memit_vc.porcelain.setup import init
from tests.support.models import FACTS, SENTENCES, hparams_for, load, tiny

__all__ = ["FIRST", "SECOND", "Cli", "Place", "Result", "contents", "copy_of", "make_place"]

FIRST, SECOND = FACTS[:2], FACTS[2:4]
"""The facts of the commit that the fixture `finished` has, and two more."""

TOKENS = 400
"""Tokens of statistics: more than the width of a tiny model's keys."""


@dataclass(frozen=True)
class Place:
    """`base` is the model's directory, `work` holds `.memitvc`, `text` is both corpus and health text."""

    base: Path
    work: Path
    text: Path

    def edits(self, facts: Sequence[Fact], name: str = "edits.json") -> str:
        """Write an edit file beside the repository; its path."""
        path = self.work / name
        path.write_text(write_records(facts, format="json"), encoding="utf-8")
        return str(path)


def make_place(
    root: Path, family: str = "llama", *, dtype: str = "float32", start: bool = True, **hparams: Any
) -> Place:
    """A tiny model in `root/base` and, with `start`, a repository on it in `root/work`; few steps, a small corpus."""
    place = Place(base=tiny(family, root / "base", dtype=dtype), work=root / "work", text=root / "text.txt")
    place.text.write_text("\n\n".join(SENTENCES), encoding="utf-8")
    place.work.mkdir()
    values = hparams_for(load(place.base), **{"v_num_grad_steps": 8, "device": "cpu", **hparams})
    (root / "hparams.yaml").write_text(values.to_yaml(), encoding="utf-8")
    if start:
        text = str(place.text)
        init(str(place.base), directory=place.work, hparams=root / "hparams.yaml", corpus=text, health=text)
    return place


def copy_of(place: Place, root: Path) -> Place:
    """The same repository once more, on the same base."""
    shutil.copytree(place.work, root / "work")
    return Place(base=place.base, work=root / "work", text=place.text)


def contents(work: Path) -> str:
    """A digest of all that a repository holds: every row of every table (refs and HEAD among them), every object."""
    root = work / ".memitvc"
    found = [str(path.relative_to(root)) for path in sorted((root / "objects").rglob("*")) if path.is_file()]
    connection = sqlite3.connect(root / "meta.db")
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        for (table,) in tables:
            found += sorted(f"{table}: {row}" for row in connection.execute(f'SELECT * FROM "{table}"'))  # noqa: S608
    finally:
        connection.close()
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


@dataclass(frozen=True)
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error of a failed `--json` command."""
        error: dict[str, Any] = json.loads(self.err)["error"]
        return error


@dataclass(frozen=True)
class Cli:
    """`memitvc` in a directory, in this process."""

    work: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, command: str, *arguments: str | Path, stdin: str = "") -> Result:
        self.capsys.readouterr()
        with self.monkeypatch.context() as patched:
            patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            code = main([command, "-C", str(self.work), *map(str, arguments)])
        captured = self.capsys.readouterr()
        return Result(code, captured.out, captured.err)

    def ok(self, command: str, *arguments: str | Path, stdin: str = "") -> Result:
        """A command that must succeed."""
        result = self(command, *arguments, stdin=stdin)
        assert result.code == 0, result.err
        return result
