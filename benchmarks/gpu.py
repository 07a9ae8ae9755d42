"""python -m benchmarks.gpu: everything that only a GPU can tell, in one command of at most eight minutes.

Needs no network: models are made up, except with --model and --edits. Prints each figure as it is found and writes all
of them to a JSON file each time. What there is no time for is left out, and said so. Exit code 1 if a goal was missed
or a stage failed. --cpu-check runs every stage at small size on the CPU: it shows that the script runs, not how fast.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks import gpu_commits, gpu_large, gpu_parity
from benchmarks.gpu_run import Figure, Run
from benchmarks.report import machine

__all__ = ["main"]

STAGES: Mapping[str, tuple[float, Callable[[Run], None]]] = {
    "golden": (20, gpu_parity.golden),
    "verbs": (20, gpu_parity.verbs),
    "memory": (10, gpu_parity.scarce),
    "large": (90, gpu_large.search),
    "solve": (30, gpu_large.solve),
    "statistics": (60, gpu_large.statistics),
    "thousand": (60, gpu_large.thousand),
    "commits": (60, gpu_commits.run),
}
"""In order of importance. The seconds that each should have left, or it is not begun."""


@dataclass
class Ledger:
    """Figures, printed and written as they come."""

    path: Path
    settings: Mapping[str, object]
    figures: list[Figure] = field(default_factory=list)
    trouble: dict[str, str] = field(default_factory=dict)

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)
        print(figure, flush=True)
        self.write()

    def fail(self, stage: str, why: str) -> None:
        self.trouble[stage] = why
        print(f"{stage}: {why.splitlines()[-1]}", flush=True)
        self.write()

    def write(self) -> None:
        found = [{**asdict(figure), "kept": figure.kept} for figure in self.figures]
        record = {"machine": machine(), "settings": self.settings, "figures": found, "trouble": self.trouble}
        self.path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"{', '.join(STAGES)}. Default: all, in this order.")
    parser.add_argument("--device", default="cuda:0", help="Default: cuda:0.")
    parser.add_argument("--seconds", type=float, default=480, help="for everything. Default: 480.")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), metavar="FILE", help="Default: gpu.json.")
    parser.add_argument("--model", type=Path, metavar="DIR", help="the real small model, for `commits`")
    parser.add_argument("--edits", type=Path, metavar="FILE", help="official CounterFact records, for `commits`")
    parser.add_argument("--corpus", default="self", metavar="SOURCE", help="text for the statistics of `commits`")
    parser.add_argument("--cpu-check", action="store_true", help="small sizes, on the CPU")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.stages if name not in STAGES]
    if unknown:
        parser.error(f"no such stage: {', '.join(unknown)} (there are {', '.join(STAGES)})")
    if not given.cpu_check and not torch.cuda.is_available():
        parser.error("there is no GPU here; --cpu-check runs the script at small size")
    logging.disable_progress_bar()
    device = torch.device("cpu" if given.cpu_check else given.device)
    ends = time.monotonic() + given.seconds
    ledger = Ledger(given.out, {"device": str(device), "seconds": given.seconds, "small": given.cpu_check})
    ledger.write()
    with tempfile.TemporaryDirectory(prefix="memitvc-gpu-") as work:
        run = Run(device, given.cpu_check, ends, Path(work), ledger.add, given.model, given.edits, given.corpus)
        for name in given.stages or STAGES:
            seconds, stage = STAGES[name]
            if not run.small and run.left < seconds:
                ledger.fail(name, f"left out, {run.left:.0f} s are left")
                continue
            began = time.monotonic()
            try:
                stage(run)
            except Exception:  # the next stage may well succeed, and a GPU is rarely at hand
                ledger.fail(name, traceback.format_exc())
            run.free()
            print(f"-- {name}: {time.monotonic() - began:.1f} s, {run.left:.0f} s left", flush=True)
    missed = [figure for figure in ledger.figures if figure.kept is False]
    return 1 if missed or ledger.trouble else 0


if __name__ == "__main__":
    sys.exit(main())
