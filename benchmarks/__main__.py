"""python -m benchmarks [NAME…]: measure, print tables of ratios, write results/NAME.json and docs/performance.md."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from transformers.utils import logging

from benchmarks import commit, corpora, edits, history, large, long, moments, quality, solve, z
from benchmarks.places import Options
from benchmarks.report import RESULTS, Report, show, write_documentation

BENCHMARKS: dict[str, Callable[[Options], Report]] = {
    "z": z.run,
    "statistics": moments.run,
    "solve": solve.run,
    "commit": commit.run,
    "edits": edits.run,
    "bfloat16": edits.run_bfloat16,
    "rules": edits.run_rules,
    "many": edits.run_many,
    "history": history.run,
    "quality": quality.run,
    "corpora": corpora.run,
    "large": large.run,
    "long": long.run,
}
ALWAYS = ("z", "statistics", "solve", "commit")
WITH_EDITS = ("edits", "bfloat16", "rules", "many", "history")
"""Only with a file of facts: those that are made up here are too few for `many`, and not what results/ is about."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{', '.join(BENCHMARKS)}. Default: {', '.join(ALWAYS)}; with --edits also {', '.join(WITH_EDITS)}. "
        "many takes 500 facts. Only where they are named: quality and corpora, for official CounterFact records; "
        "large, for a GPU; long, a history of 3,000 commits.",
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="a model directory. Default: the demo's model.")
    parser.add_argument("--facts", type=int, metavar="N", help="facts, in place of each benchmark's own number")
    parser.add_argument("--edits", type=Path, metavar="FILE", help="an edit file to take the facts from")
    parser.add_argument("--corpus", default="pydoc", metavar="SOURCE", help="text, as `memitvc stats` takes it")
    parser.add_argument("--tokens", type=int, metavar="N", help="tokens of the statistics. Default: 40,000.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0. Default: cpu.")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs; keeps no results")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where to write results, in place of results/")
    parser.add_argument("--only", metavar="SETTING", help="of quality's settings, those whose names begin so")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)} (there are {', '.join(BENCHMARKS)})")
    directory = given.results or (None if given.quick else RESULTS)
    options = Options(
        model=given.model,
        facts=given.facts,
        edits=given.edits,
        corpus=given.corpus,
        tokens=given.tokens,
        quick=given.quick,
        device=given.device,
        only=given.only,
        results=directory,
    )
    logging.disable_progress_bar()
    for name in given.names or (ALWAYS if given.edits is None else ALWAYS + WITH_EDITS):
        report = BENCHMARKS[name](options)
        if given.quick:  # the goals are about the full sizes
            report = replace(report, rows=[replace(row, goal=None) for row in report.rows])
        show(report)
        if directory is not None:
            report.write(directory)
    if directory == RESULTS:
        write_documentation()


if __name__ == "__main__":
    main()
