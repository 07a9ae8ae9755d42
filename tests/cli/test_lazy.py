"""Read commands answer at once: what they import is looked at in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from memit_vc.cli.main import COMMANDS
from tests.support.places import Place

HEAVY = ("torch", "transformers", "alembic", "numpy", "huggingface_hub", "pyarrow", "yaml")
_RUN = """
import contextlib, io, json, sys
from memit_vc.cli import main
heavy, commands = json.loads(sys.argv[1]), json.loads(sys.argv[2])
found = {}
for command in commands:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(command)
    loaded = [name for name in heavy if name in sys.modules]
    if code or loaded:
        found[" ".join(command)] = [code, loaded, said.getvalue()]
        break
json.dump(found, sys.stdout)
"""


def offenders(commands: list[list[str]]) -> dict[str, list[object]]:
    """Commands, run one after the other in one new process, that fail or leave a heavy module loaded."""
    arguments = [json.dumps(HEAVY), json.dumps(commands)]
    made = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments], capture_output=True, text=True, check=True, env={**os.environ}
    )
    found: dict[str, list[object]] = json.loads(made.stdout)
    return found


def test_import_and_help_load_nothing_heavy() -> None:
    code = f"import sys, memit_vc; dir(memit_vc); sys.exit(len(set(sys.modules) & set({HEAVY!r})))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert offenders([["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]) == {}


@pytest.mark.parametrize("as_json", [False, True])
def test_read_commands_and_revert_load_nothing_heavy(place: Place, as_json: bool) -> None:
    commands = [
        ["log"],
        ["log", "--graph"],
        ["log", "--oneline"],
        ["status"],
        ["show"],
        ["show", "HEAD~1"],
        ["facts"],
        ["revert", "HEAD"],
        ["facts"],
        ["log", "--all"],
    ]
    where = ["-C", str(place.work)]
    assert offenders([[*c, *where, *(["--json"] if as_json else [])] for c in commands]) == {}


def test_a_report_needs_no_torch(place: Place) -> None:
    code = (
        "import sys; from memit_vc.cli import main; "
        f"code = main(['report', '-C', {str(place.work)!r}, '-o', {str(place.work / 'report.html')!r}]); "
        "sys.exit(code or len(set(sys.modules) & {'torch', 'transformers', 'alembic', 'huggingface_hub', 'pyarrow'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_command_that_is_not_there_loads_nothing(tmp_path: Path) -> None:
    code = (
        f"import sys; from memit_vc.cli import main; main(['comit']); sys.exit(len(set(sys.modules) & set({HEAVY!r})))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert made.returncode == 0
    assert "no such command" in made.stderr
