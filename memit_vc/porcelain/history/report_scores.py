"""What was measured along a history: of each fact at each commit, of each batch, and of two states side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from memit_vc.objects import CommitId, FactId
from memit_vc.objects.measures import OF_FACT
from memit_vc.page.data import Case, Comparison, Curve, FactRow, Point, Values

if TYPE_CHECKING:
    from memit_vc.repository import Repository

ASKED = {"prompt": "rewrite_acc", "paraphrases": "paraphrase_acc", "neighbours": "neighbourhood_acc"}
"""What is right or wrong of a fact, and the measure that says so."""
SHOWN = 200
"""Cases of a bucket; the block of data has every measurement."""


def values(scores: Mapping[str, Any]) -> Values:
    return tuple(_rounded(scores.get(name)) for name in OF_FACT)


def _rounded(value: object) -> float | None:
    return round(float(value), 4) if isinstance(value, int | float) else None


class Measured:
    """The scores of facts by commit and of what was there right before their commit."""

    def __init__(self, repository: Repository, commits: Sequence[CommitId]) -> None:
        states = repository.recorded_states()
        by_state = repository.evaluations_by_state("fact")
        records: Any = repository.evaluations_of(commits, "commit")
        handed: Any = repository.evaluations_of(commits, "brought")
        self.records: dict[CommitId, Any] = records
        self.at: dict[CommitId, dict[FactId, Values]] = {}
        self.where: dict[FactId, list[CommitId]] = {}
        self.before: dict[CommitId, dict[FactId, Values]] = {}
        self.why: dict[FactId, Any] = {}
        by_probe: dict[CommitId, dict[str, float]] = {}
        ppl: dict[Any, dict[str, Any]] = {**repository.evaluations_by_state("perplexity")}
        for commit, record in records.items():  # equal states have equal weights, whichever commit was measured
            side = record["after"]
            by_state[states[commit]] = {**side.get("facts", {}), **by_state.get(states[commit], {})}
            if isinstance(side.get("perplexity"), int | float):
                ppl[states[commit]] = {side["probe"]: side["perplexity"], **ppl.get(states[commit], {})}
        for commit in commits:
            found: dict[str, Any] = {}
            before: dict[str, Any] = {}
            if commit in handed:
                found |= handed[commit].get("after", {})
                before |= handed[commit].get("before", {})
            if commit in records:
                before |= records[commit]["before"].get("facts", {})
                self.why |= records[commit].get("why", {})
            found |= by_state.get(states[commit], {})
            self.at[commit] = {FactId(fact): values(scores) for fact, scores in found.items()}
            for fact in self.at[commit]:
                self.where.setdefault(fact, []).append(commit)
            self.before[commit] = {FactId(fact): values(scores) for fact, scores in before.items()}
            by_probe[commit] = {probe: float(value) for probe, value in ppl.get(states[commit], {}).items()}
        self._by_probe = by_probe

    def perplexities(self, line: Sequence[CommitId]) -> dict[CommitId, float]:
        """By one text, for numbers of two texts do not compare: the one of most commits."""
        counts: dict[str, int] = {}
        for commit in line:
            for probe in self._by_probe[commit]:
                counts[probe] = counts.get(probe, 0) + 1
        if not counts:
            return {}
        probe = max(counts, key=lambda name: counts[name])
        found = {commit: self._by_probe[commit][probe] for commit in line if probe in self._by_probe[commit]}
        for older, newer in pairwise(line):  # what a commit measured before it
            side = self.records.get(newer, {}).get("before", {})
            if older not in found and side.get("probe") == probe and isinstance(side.get("perplexity"), int | float):
                found[older] = side["perplexity"]
        return {commit: found[commit] for commit in line if commit in found}


def points(
    fact: FactId, own: CommitId, order: Mapping[CommitId, int], measured: Measured, numbers: Mapping[CommitId, int]
) -> tuple[Point, ...]:
    """Of a fact that came in with `own`: before, then, and at the later commits of the line. `order` gives a commit's
    place on the line.
    """
    before = measured.before[own].get(fact)
    start = order.get(own, 0)
    later = [each for each in measured.where.get(fact, ()) if each != own and order.get(each, -1) >= start]
    commits = [own, *sorted(later, key=order.__getitem__)]
    found = [Point(numbers[each], measured.at[each][fact]) for each in commits if fact in measured.at[each]]
    return tuple(found if before is None else [Point(None, before), *found])


def broke(found: Sequence[Point], own: int, line: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """For what was right and is wrong at the last point, the commits of which one made it so: those after the last
    point where it was right. `own` brought the fact in. `line` goes from the root; newer commits have smaller numbers.
    """
    made: dict[str, tuple[int, ...]] = {}
    for what, name in ASKED.items():
        known = [(point.commit, value) for point in found if (value := point.get(name)) is not None]
        span = None
        for (right, old), (wrong, new) in pairwise(known):
            if new < old and wrong is not None:
                span = (own + 1 if right is None else right, wrong)
            elif new > old and new >= 1.0:
                span = None
        if span is not None:
            right, wrong = span
            made[what] = tuple(commit for commit in line if wrong <= commit < right) or (wrong,)
    return made


def curves(facts: Sequence[FactRow], order: Mapping[int, int]) -> tuple[Curve, ...]:
    """Of each batch, the share of its facts that are answered at each commit where they were measured.

    `order` gives a commit's place on the line.
    """
    batches: dict[int, dict[int, list[float]]] = {}
    for fact in facts:
        for point in fact.points:
            value = point.get("rewrite_acc")
            if point.commit in order and value is not None:
                batches.setdefault(fact.commit, {}).setdefault(point.commit, []).append(value)  # type: ignore[arg-type]
    return tuple(
        Curve(
            batch,
            tuple(
                (commit, sum(each) / len(each), len(each))
                for commit, each in sorted(found.items(), key=lambda item: order[item[0]])
            ),
        )
        for batch, found in sorted(batches.items(), key=lambda item: order.get(item[0], -1))
    )


def comparisons(facts: Sequence[FactRow], tip: int, parent: int | None) -> tuple[Comparison, ...]:
    """Pairs of states that a reader asks about: before the edits and now, as committed and now, the parent and now."""

    def first(fact: FactRow) -> Point | None:
        return fact.points[0] if fact.points and fact.points[0].commit is None else None

    def committed(fact: FactRow) -> Point | None:
        return next((point for point in fact.points if point.commit == fact.commit), None)

    def at_parent(fact: FactRow) -> Point | None:
        return next((point for point in fact.points if point.commit == parent), None)

    def at_tip(fact: FactRow) -> Point | None:
        return next((point for point in fact.points if point.commit == tip), None)

    pairs = [
        ("before each fact's commit", "right after it", first, committed),
        ("right after each fact's commit", "the revision of this report", committed, at_tip),
        ("the revision's parent", "the revision of this report", at_parent, at_tip),
    ]
    made = [_compared(facts, *pair) for pair in pairs]
    return tuple(each for each in made if each.unchanged or each.regressed or each.fixed or each.failing)


def _compared(facts: Sequence[FactRow], older: str, newer: str, one: Any, other: Any) -> Comparison:
    buckets: dict[str, list[Case]] = {"regressed": [], "fixed": [], "failing": []}
    unchanged = 0
    for number, fact in enumerate(facts):
        sides = one(fact), other(fact)
        if None in sides or sides[0] is sides[1]:
            continue
        for what, name in ASKED.items():
            before, after = (side.get(name) for side in sides)
            if before is None or after is None:
                continue
            case = Case(number, what, before, after, fact.broke.get(what, ()))
            if after < before:
                buckets["regressed"].append(case)
            elif after > before:
                buckets["fixed"].append(case)
            elif after < 1.0:
                buckets["failing"].append(case)
            else:
                unchanged += 1
    return Comparison(older, newer, unchanged=unchanged, **{name: tuple(cases) for name, cases in buckets.items()})
