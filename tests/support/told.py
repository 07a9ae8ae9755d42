"""A history with scores that no model ever gave: what the report shows, without the minutes that a model takes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from memit_vc.objects import Commit, CommitId, Fact, FactId, JsonValue, Probe
from memit_vc.objects.measures import MEASURES, OF_FACT
from memit_vc.page.data import CommitRow, Curve, FactRow, Interference, Point, Report, Weights
from memit_vc.porcelain.history.report_scores import broke, comparisons
from memit_vc.porcelain.sets.revert import revert
from memit_vc.repository import Repository
from memit_vc.vcs.graphlines import graph_rows
from tests.support import synthetic

__all__ = ["Teller", "asked", "large_report", "long_history", "scores", "story"]


def asked(number: int, **changes: str) -> Fact:
    """A fact with a paraphrase and a neighbour."""
    city = changes.get("subject", f"City {number}")
    return Fact(
        prompt=changes.get("prompt", f"{city} is located in the country of"),
        subject=city,
        target=changes.get("target", f"Newland {number}"),
        ground_truth=f"Oldland {number}",
        paraphrases=(f"Who travels to {city} visits",),
        neighbourhood=(
            Probe(prompt=f"The town beside {city} is located in the country of", answer=f"Oldland {number}"),
        ),
    )


def scores(*, right: float = 1.0, neighbour: float = 1.0, nll: float = 0.1) -> dict[str, float | None]:
    found: dict[str, float | None] = dict.fromkeys(MEASURES)
    return found | {
        "ES": right, "PS": right, "NS": neighbour, "rewrite_acc": right, "paraphrase_acc": right,
        "neighbourhood_acc": neighbour, "same_subject": 0.75, "hijacked": 0.0, "nll": nll,
    }  # fmt: skip


_BEFORE = scores(right=0.0, nll=7.0)


@dataclass
class Teller:
    """Makes commits, and says what was measured on them."""

    repository: Repository
    ppl: float = 20.0
    known: dict[FactId, dict[str, float | None]] = field(default_factory=dict)

    def commit(self, facts: Sequence[Fact], message: str, **after: dict[str, float | None]) -> Commit:
        """A commit of facts that are answered, unless `after` (by subject, "_" for a space) says otherwise."""
        made = synthetic.record(self.repository, facts, message=message)
        state = self.repository.recorded_states()[made.id]
        sides: dict[str, dict[str, JsonValue]] = {}
        for side, ppl in (("before", self.ppl), ("after", self.ppl + 0.2)):
            each = {
                fact.id: _BEFORE if side == "before" else after.get(fact.subject.replace(" ", "_"), scores())
                for fact in facts
            }
            total = {name: _mean([one[name] for one in each.values()]) for name in scores()}
            sides[side] = {
                "facts": each,
                "total": total,
                "error": dict.fromkeys(total, 0.0),
                "perplexity": ppl,
                "probe": "p",
            }  # type: ignore[dict-item]
        self.ppl += 0.2
        why = {fact.id: {"leverage": {"0": 0.9}, "left": 0.05, "agreement": {"0": 0.5}, "loss": 0.01} for fact in facts}
        self.repository.put_evaluation(state, made.id, "commit", made.id, {**sides, "why": why})  # type: ignore[dict-item]
        return made

    def measured(self, commit: str, found: dict[FactId, dict[str, float | None]]) -> None:
        """As `memitvc eval COMMIT` keeps it."""
        state = self.repository.recorded_states()[self.repository.resolve(commit)]
        self.repository.put_evaluations([(state, None, "fact", fact, dict(each)) for fact, each in found.items()])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def story(directory: Path) -> Repository:
    """Four commits, of which the second makes a neighbour wrong and the third an answer; the fourth is reverted, and a
    branch is merged.
    """
    repository = synthetic.init(directory)
    teller = Teller(repository)
    first = [asked(1), asked(2), asked(3)]
    teller.commit(first, "Three cities", City_3=scores(right=0.0))
    teller.commit([asked(4), asked(5)], "Two more cities")
    teller.measured("HEAD", {first[0].id: scores(neighbour=0.0), first[1].id: scores()})
    teller.commit([asked(8)], "A third batch")
    teller.measured("HEAD", {first[0].id: scores(neighbour=0.0), first[1].id: scores(right=0.0, nll=4.0)})
    taken = teller.commit([asked(6)], "One to be taken out again")
    revert(repository, [taken.id[:12]])  # the state is that of the third batch, and so is what was measured
    side = synthetic.record(repository, [asked(7)], parents=[taken.id], branch="side", message="From a side")
    synthetic.record(repository, parents=[repository.head().commit, side.id], message="Merge side", kind="merge")
    return repository


def long_history(directory: Path, *, commits: int, facts: int) -> Repository:
    """`commits` commits of `facts` facts each, measured when they came in."""
    repository = synthetic.init(directory)
    teller = Teller(repository)
    for number in range(commits):
        teller.commit([asked(facts * number + each) for each in range(facts)], f"Batch {number}")
    return repository


def large_report(*, commits: int, facts: int) -> Report:
    """A report as a long history gives it, made without one."""
    names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(commits + 1)]
    drawn = graph_rows((CommitId(name), names[n + 1 : n + 2]) for n, name in enumerate(names))  # type: ignore[misc]
    means = scores()
    rows = tuple(
        CommitRow(
            id=name, subject=f"Batch {commits - n}", message=f"Batch {commits - n}", author="Ada", kind="commit",
            time="2026-01-31T12:00:00Z", parents=tuple(names[n + 1 : n + 2]), refs=(), state=name, graph=graph,
            facts=facts // commits, gone=0, lost=False, before=_BEFORE, after=means, errors={}, perplexity=20 + n % 7,
        )
        for n, (name, graph) in enumerate(zip(names, drawn, strict=True))
    )  # fmt: skip
    random = Random(0)

    def point(at: int | None, right: float) -> Point:
        found = scores(right=right, nll=round(random.random(), 4)) | {"same_subject": random.randrange(5) / 4}
        return Point(at, tuple(found[name] for name in OF_FACT))

    found = []
    for number in range(facts):
        fact, own = asked(number), number % commits
        measured = (point(None, 0.0), point(own, 1.0), point(0, float(random.random() > 0.02)))
        why = {"left": random.random(), "loss": random.random(), "leverage": {"7": random.random()}, "agreement": None}
        found.append(
            FactRow(
                id=fact.id, subject=fact.subject, prompt=fact.prompt, target=fact.target, old=fact.ground_truth,
                paraphrases=fact.paraphrases, neighbours=tuple((p.prompt, p.answer) for p in fact.neighbourhood),
                generation=(), commit=own, gone=None, status="live", points=measured,
                broke=broke(measured, own, range(commits, -1, -1)), why=why,
            )
        )  # fmt: skip
    line = tuple(range(commits, -1, -1))
    return Report(
        base="llama", base_id=names[0], revision=names[0], branch="main", state=names[0], commits=rows,
        line=line, facts=tuple(found), curves=tuple(Curve(n, ((n, 1.0, 10),)) for n in line[1:]),
        perplexity=tuple((n, 20.0 + n % 7) for n in line), base_perplexity=20.0, comparisons=comparisons(found, 0, 1),
        weights=Weights((), (), None), interference=Interference((), 0, None), provenance={}, hashes_recorded=False,
    )  # fmt: skip
