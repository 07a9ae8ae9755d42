"""The short form of `make attack`: some kills, changed inputs at every door, racing writers for a moment."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.attack.__main__ import main
from tests.support.attack.doors import DOORS


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")
def test_the_short_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("moto", "obstore"):
        pytest.importorskip(module)
    results = tmp_path / "results.jsonl"
    line = ["--kills", "4", "--inputs", "40", "--bucket-kills", "3", "--minutes", "0.04", "--patience", "60"]
    code = main([*line, "--results", str(results)])
    said = capsys.readouterr().out
    assert code == 0, said
    kills, inputs, bucket, writers = map(json.loads, results.read_text().splitlines())
    assert kills["counts"]["tries"] == 4
    assert inputs["counts"]["tries"] >= 40
    assert {name.partition(":")[0] for name in inputs["counts"]} - {"tries"} == {name for name, _, _ in DOORS}
    assert bucket["counts"]["tries"] == 3
    assert writers["counts"]["operations"] >= 1
    assert [part["faults"] for part in (kills, inputs, bucket, writers)] == [[], [], [], []]
    assert {each["seed"] for each in (kills, inputs, bucket, writers)} == {"1"}
