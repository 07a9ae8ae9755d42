"""Imports point one way: import-linter over the contract in pyproject.toml."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

_HEAVY = {"torch", "transformers", "alembic", "yaml", "rich", "pyarrow", "huggingface_hub", "numpy", "peft", "gguf"}


def test_imports_point_one_way() -> None:
    # in a process of its own: import-linter configures logging, which silences the loggers of the tests that follow
    check = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _module_level_imports(path: Path) -> set[str]:
    """Top-level package names that are imported when the module is."""
    found: set[str] = set()
    pending: list[ast.stmt] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.If):
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                pending += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try):
            pending += [*node.body, *node.orelse, *node.finalbody]
        elif isinstance(node, ast.ClassDef):
            pending += node.body
    return found


@pytest.mark.parametrize("part", ["objects", "store", "vcs", "edits", "hparams", "porcelain", "cli", "repository.py"])
def test_reading_a_history_stays_light(part: str) -> None:
    place = ROOT / "memit_vc" / part
    files = [place] if place.suffix else sorted(place.rglob("*.py"))
    assert files
    heavy = {str(file): found for file in files if (found := _module_level_imports(file) & _HEAVY)}
    assert heavy == {}


def test_files_are_of_a_size_that_can_be_read() -> None:
    """One idea, one file: no wall is drawn through a room for the sake of a limit, and no room becomes a hall."""
    lines = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in (ROOT / "memit_vc").rglob("*.py")
        if file.name != "__init__.py"
    }
    assert {file: count for file, count in lines.items() if count > 600} == {}
    assert statistics.median(lines.values()) <= 150
