"""Long histories: how each verb's processor time grows from 750 commits with 2,500 facts to 3,000 with 10,000.

The base is tiny and the patches are random, so that what remains is the work on the history itself. A verb may grow
with the history: 4 times as many commits, 4 times the work. It may not grow with the square.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.commands import memitvc
from benchmarks.places import Options
from benchmarks.report import Report, Row
from memit_vc.numerics.exact.constraints import encode_constraints
from memit_vc.numerics.exact.factored import LowRank
from memit_vc.numerics.exact.grid import snap
from memit_vc.objects import (
    Commit,
    CommitId,
    EditableWeight,
    Fact,
    JsonValue,
    Patch,
    PatchColumn,
    RefUpdate,
    canonical_json,
)
from memit_vc.porcelain.editing.pack import pack
from memit_vc.porcelain.setup import init
from memit_vc.repository import Repository
from tests.support.models import tiny

__all__ = ["build", "run"]

COMMITS, QUICK = (750, 3000), (5, 20)
SIDE = 10
"""Commits on the branch `side`, which leaves main in the middle."""
AT_ONCE = 50
"""Commits of one transaction: each for itself would only wait for the disk."""
SIZE = 1e-3
"""Factors so small that ten thousand of them can be summed exactly."""
GROWTH = 5.0
"""Of the time of a verb while the history grows fourfold; the square would be 16."""
LIMITS: Mapping[str, float] = {"verify": 2.0, "squash --all": 6.0, "push, the first": 20.0, "facts": 1.5}
"""Seconds at 3,000 commits."""


def facts_of(commits: int) -> int:
    """Facts of a history: 10,000 in 3,000 commits."""
    return commits * 10 // 3


def build(directory: Path, base: Path, commits: int) -> None:
    """A repository with `commits` commits on main, each of three or four facts, and a branch `side` from the middle."""
    init(str(base), directory=directory)
    with Repository.open(directory) as repository:
        weights = [weight for weight in repository.weights() if weight.layer in (1, 2)]
        root = repository.head().commit
        tips = _line(repository, weights, "main", root, range(1, commits + 1))
        middle = tips[commits // 2]
        _line(repository, weights, "side", middle, range(commits + 1, commits + 1 + SIDE))


def _line(
    repository: Repository, weights: list[EditableWeight], branch: str, start: CommitId, numbers: range
) -> list[CommitId]:
    """Commits one after another, stored some at a time."""
    old = repository.refs().get(f"heads/{branch}")
    made: list[CommitId] = [start]
    commits: list[Commit] = []
    patches: list[Patch] = []
    facts: list[Fact] = []
    for number in numbers:
        batch = [
            Fact(prompt=f"Object {n} has the colour", subject=f"Object {n}", target=f"hue {n}")
            for n in range(facts_of(number - 1), facts_of(number))
        ]
        patch, blobs = _patch(repository, weights, batch, number, made[-1])
        for blob in blobs:
            repository.blobs.put(blob)
        commit = Commit(
            base=repository.base_id,
            parents=(made[-1],),
            adds=tuple(sorted(patch.columns)),
            removes=(),
            patches=(patch.id,),
            kind="commit",
            message=f"commit {number}",
            author="benchmark",
            time="2026-01-31T12:00:00Z",
            provenance=patch.header.provenance,
        )
        made.append(commit.id)
        commits.append(commit)
        patches.append(patch)
        facts += batch
        if len(commits) == AT_ONCE or number == numbers[-1]:
            repository.publish(
                verb="commit",
                description=commit.message,
                commits=commits,
                patches=patches,
                facts=facts,
                refs=[RefUpdate(f"heads/{branch}", old, commit.id)],
            )
            old, commits, patches, facts = commit.id, [], [], []
    return made


def _patch(
    repository: Repository, weights: list[EditableWeight], batch: list[Fact], number: int, parent: CommitId
) -> tuple[Patch, tuple[bytes, ...]]:
    """A patch of random factors, its constraints and a provenance of its own, as a real batch has them."""
    random, n = np.random.default_rng(number), len(batch)
    tensors = {
        w.name: LowRank(
            *snap(random.normal(size=(w.d_out, n)) * SIZE, random.normal(size=(n, w.d_in)) * SIZE, w.quantum)
        )
        for w in weights
    }
    constraints = encode_constraints(
        {w.name: random.normal(size=(w.d_in, n)).astype(np.float32) for w in weights},
        {w.name: random.normal(size=(w.d_out, n)).astype(np.float32) for w in weights},
        random.normal(size=(n, weights[0].d_out)).astype(np.float32),
    )
    provenance: dict[str, JsonValue] = {"algorithm": "random", "seed": number, "on": parent}
    columns = [PatchColumn(fact=fact.id) for fact in batch]
    return pack(repository, columns, tensors, constraints=constraints, provenance=canonical_json(provenance))


def _verbs(commits: int, out: str, remote: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name in the table, command) in their order; "" is not measured. What moves the branch is undone at once."""
    last = "HEAD~4..HEAD" if commits <= QUICK[-1] else "HEAD~50..HEAD"
    for words in (("log",), ("status",), ("show",), ("facts",), ("facts", "--json"), ("op", "log")):
        yield " ".join(words), words
    yield "checkout -o", ("checkout", "-o", out)
    yield "verify", ("verify", out)
    yield "", ("remote", "add", "origin", remote)
    yield "push, the first", ("push",)
    yield "push, nothing new", ("push",)
    yield "fetch", ("fetch",)
    for words in (("gc",), ("fsck", "--quick"), ("fsck",)):
        yield " ".join(words), words
    yield "revert of the middle commit", ("revert", f"HEAD~{commits // 2}")
    yield "undo", ("undo",)
    yield "merge of a branch", ("merge", "side")
    yield "", ("undo",)
    yield "squash of the newest 50", ("squash", last)
    yield "", ("undo",)
    yield "squash --all", ("squash", "--all")


def measure(base: Path, directory: Path, commits: int) -> dict[str, float]:
    """Processor seconds of each verb on a new history."""
    work = directory / "work"
    build(work, base, commits)
    found: dict[str, float] = {}
    for name, words in _verbs(commits, str(directory / "out"), str(directory / "remote")):
        seconds = memitvc(work, *words)["processor_seconds"]
        if name:
            found[name] = seconds
    made = memitvc(work, "clone", str(directory / "remote"), str(directory / "clone"), "--base", str(base))
    return {**found, "clone": made["processor_seconds"]}


def run(options: Options) -> Report:
    counts = QUICK if options.quick else COMMITS
    with tempfile.TemporaryDirectory(prefix="memitvc-long-") as name:
        place = Path(name)
        base = options.model or tiny("gpt2", place / "base")
        few, many = (measure(base.resolve(), place / str(commits), commits) for commits in counts)
    rows = [
        Row(verb, many[verb], few[verb], inverse=True, goal=("≤", GROWTH), more=_limit(verb, many[verb]))
        for verb in many
    ]
    return Report(
        "long",
        f"processor seconds of each verb on a history of {counts[1]:,} commits and {facts_of(counts[1]):,} facts",
        f"those on a history of {counts[0]:,} commits and {facts_of(counts[0]):,} facts",
        {"base": "a tiny GPT-2", "commits": counts[1], "facts": facts_of(counts[1])},
        rows,
    )


def _limit(verb: str, seconds: float) -> dict[str, str]:
    most = LIMITS.get(verb)
    return {} if most is None else {f"goal ≤ {most:g} s": "(met)" if seconds <= most else "(missed)"}
