"""A whole commit against its own search for z, and the peak of its memory. Each commit runs in a process of its own.

python -m benchmarks.commit WORK EDITS   (one commit; prints JSON)
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.facts import some_facts
from benchmarks.places import Options, place
from benchmarks.report import Report, Row
from memit_vc.edits import read_edits, write_records
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.measure import measure_base
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.editing.remembered import context_templates
from memit_vc.porcelain.editing.statistics import prepare_statistics
from memit_vc.repository import Repository

__all__ = ["run"]

MEMORY = 1500.0
"""MB above the model's weights that a commit of 100 facts may take."""
_MB = 1e6
_COUNTED = 1024 if sys.platform != "darwin" else 1
"""Bytes that `ru_maxrss` counts in."""


def run(options: Options) -> Report:
    """10 facts for the time, 100 for the memory; statistics, factors and templates are there before."""
    rows: list[Row] = []
    with place(options) as here, tempfile.TemporaryDirectory(prefix="memitvc-benchmark-") as name:
        prepare_statistics(here.loaded, here.hparams, choose=True)  # both as `memitvc stats` does
        measure_base(here.repository, here.loaded.adapter)
        context_templates(here.loaded, here.hparams)
        here.repository.hparams_path.write_text(here.hparams.to_yaml(), encoding="utf-8")
        for count in (10, 100):
            facts = some_facts(options.count(count), options.edits)
            work = Path(name) / str(count)
            shutil.copytree(here.work, work)
            edits = work / "edits.json"
            edits.write_text(write_records(facts, format="json"), encoding="utf-8")
            rows += _rows(len(facts), _commit(work, edits), first=count == 10)
    settings = {"model": options.directory().name, "early_stop": here.hparams.early_stop}
    return Report("commit", "whole commit, scores included", "its search for z alone", settings, rows)


def _rows(count: int, made: dict[str, Any], *, first: bool) -> list[Row]:
    stages = {f"{stage}, s": seconds for stage, seconds in made["stages"].items() if seconds >= 0.1}
    over = made["peak_mb"] - made["model_mb"]
    return [
        Row(
            f"{count} facts, without loading the model",
            made["commit"],
            made["z"],
            inverse=True,
            goal=("≤", 1.3) if first else None,
            more={**stages, "process from start to end, s": made["process"]},
        ),
        Row(
            f"{count} facts, memory beyond the model's weights, against the limit",
            over,
            MEMORY,
            unit="MB",
            inverse=True,
            goal=None if first else ("≤", 1.0),
            more={"weights, MB": made["model_mb"], "peak of the process, MB": made["peak_mb"]},
        ),
    ]


def _commit(work: Path, edits: Path) -> dict[str, Any]:
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.commit", str(work), str(edits)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the commit failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "process": time.perf_counter() - began}


def _child(work: Path, edits: Path) -> dict[str, Any]:
    """One commit in this process: seconds, and memory before and at its peak."""
    with Repository.open(work) as repository:
        loaded = load_model(repository, device=repository.hparams().resolved_device())
        # what is mapped and not yet read is not resident, so the weights are counted
        weights = sum(parameter.nbytes for parameter in loaded.adapter.model.parameters())
        search: list[float] = []

        def progress(stage: str, done: int, total: int) -> None:
            del done, total
            if stage.startswith("search "):
                search.append(time.perf_counter())

        began = time.perf_counter()
        made = commit_facts(repository, read_edits(str(edits)).facts, loaded=loaded, progress=progress)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _COUNTED
    return {
        "commit": seconds,
        "z": search[-1] - search[0],
        "stages": dict(made.seconds),
        "model_mb": weights / _MB,
        "peak_mb": peak / _MB,
    }


if __name__ == "__main__":
    print(json.dumps(_child(Path(sys.argv[1]), Path(sys.argv[2]))))
