"""A history with scores that no model ever gave: what the report shows, without the minutes that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memit_vc.objects import Commit, Fact, FactId, JsonValue, Probe
from memit_vc.porcelain.sets.revert import revert
from memit_vc.repository import Repository
from tests.support import synthetic

__all__ = ["Teller", "asked", "long_history", "story"]

_MEASURES = ("ES", "PS", "NS", "rewrite_acc", "free_acc", "chat_acc", "paraphrase_acc", "clean_acc")
_MORE = ("generation_acc", "neighbourhood_acc", "same_subject", "hijacked")


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
    found: dict[str, float | None] = dict.fromkeys((*_MEASURES, *_MORE))
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
    """Three commits, of which the second makes a neighbour of the first wrong and the third an answer; one revert, and a
    branch that is merged.
    """
    repository = synthetic.init(directory)
    teller = Teller(repository)
    first = [asked(1), asked(2), asked(3)]
    teller.commit(first, "Three cities", City_3=scores(right=0.0))
    spoiling = teller.commit([asked(4), asked(5)], "Two more cities")
    teller.measured("HEAD", {first[0].id: scores(neighbour=0.0), first[1].id: scores()})
    taken = teller.commit([asked(6)], "One to be taken out again")
    teller.measured("HEAD", {first[0].id: scores(neighbour=0.0), first[1].id: scores(right=0.0, nll=4.0)})
    revert(repository, [taken.id[:12]])
    teller.measured("HEAD", {first[0].id: scores(neighbour=0.0), first[1].id: scores(right=0.0, nll=4.0)})
    assert spoiling.id
    side = synthetic.record(repository, [asked(7)], parents=[taken.id], branch="side", message="From a side")
    synthetic.record(
        repository, [], parents=[repository.head().commit, side.id], message="Merge side", kind="merge", branch="main",
        patch=None,
    )  # fmt: skip
    return repository


def long_history(directory: Path, *, commits: int, facts: int) -> Repository:
    """`commits` commits of `facts` facts each, measured when they came in."""
    repository = synthetic.init(directory)
    teller = Teller(repository)
    for number in range(commits):
        teller.commit([asked(facts * number + each) for each in range(facts)], f"Batch {number}")
    return repository
