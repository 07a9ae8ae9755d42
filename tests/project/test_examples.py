"""The scripts in examples/, run as their headers say, on a tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.repository import Repository
from tests.support.models import FACTS
from tests.support.paths import ROOT
from tests.support.places import Place, make_place

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A tiny Llama, hyperparameters for it, and a repository with one commit."""
    made = make_place(tmp_path_factory.mktemp("examples"), mom2_dataset="pydoc")
    with Repository.open(made.work) as repository:
        commit_facts(repository, FACTS[:2], message="Two facts", scores=False)
    return made


def run(script: str, *arguments: Path | str, cwd: Path) -> str:
    """What a script prints, run from another directory."""
    path = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    made = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


def test_every_script_says_how_to_run_it_and_is_short() -> None:
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert [script.name for script in scripts] == ["easyedit.py", "in_memory.py", "two_people.py"]
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert f"    python examples/{script.name}" in text
        assert len(text.splitlines()) <= 60


def test_easyedit(place: Place, tmp_path: Path) -> None:
    printed = run("easyedit.py", place.base, place.base.parent / "hparams.yaml", cwd=tmp_path)
    assert printed.count("accuracy") == 2
    assert "editor.model still has the old ones: True" in printed


def test_in_memory(place: Place, tmp_path: Path) -> None:
    printed = run("in_memory.py", place.work, FACTS[0].prompt, cwd=tmp_path)
    lines = printed.splitlines()
    assert lines[0].partition(FACTS[0].prompt)[2] == lines[2].partition(FACTS[0].prompt)[2]
    assert "2 weights differ" in printed
    assert "HEAD~1 again, bit for bit: True" in printed


def test_two_people(place: Place, tmp_path: Path) -> None:
    printed = run("two_people.py", tmp_path / "both", "base", "hparams.yaml", cwd=place.base.parent)
    with Repository.open(tmp_path / "both" / "ada") as ada, Repository.open(tmp_path / "both" / "ben") as ben:
        assert ada.head().commit == ben.head().commit
        assert len(ada.live_facts(ada.head().commit)) == 3
        assert ada.state(ada.head().commit) == ben.state(ben.head().commit)
    for target in ("Rome", "Jane Austen", "peso"):
        assert target in printed.split("memitvc facts")[-1]
