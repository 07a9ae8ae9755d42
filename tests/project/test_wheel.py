"""A wheel carries what the package needs: the data directories are found from an installed one, not from a checkout."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

_USE = """
import sys
from pathlib import Path
import memit_vc
from memit_vc.config import data_directory
from memit_vc.hparams import MEMITHyperParams
from memit_vc.store.migrate import HEAD_REVISION
site = Path(sys.argv[1])
assert Path(memit_vc.__file__).is_relative_to(site), memit_vc.__file__
for name in ("hparams", "migrations", "text"):
    assert data_directory(name).is_relative_to(site), data_directory(name)
assert MEMITHyperParams.from_hparams("smollm2-135m").layers
from memit_vc.numerics.statistics.corpus_shipped import shipped_source
assert len(shipped_source(0)[1]) > 100
from memit_vc.numerics.forward.phrasebook import PhraseBook
assert len(PhraseBook.shipped().relations) > 50
found = [path.read_text() for path in (data_directory("migrations") / "versions").glob("*.py")]
assert any(HEAD_REVISION in text for text in found), found
"""


def test_an_installed_wheel_finds_its_data(tmp_path: Path) -> None:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = archive.namelist()
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/")) or "__pycache__" in name]
    assert "memitvc = memit_vc.__main__:main" in next(site.glob("*.dist-info/entry_points.txt")).read_text()
    assert list(site.glob("*.dist-info/licenses/LICENSE"))
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", _USE, str(site)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
