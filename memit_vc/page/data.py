"""A report as plain values: what the templates show, and what the JSON block of the page holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from memit_vc.objects import JsonValue, as_seen
from memit_vc.objects.measures import OF_FACT
from memit_vc.vcs.graphlines import GraphRow

Values = tuple[float | None, ...]
"""In the order of `OF_FACT`."""


@dataclass(frozen=True)
class CommitRow:
    """One commit. `facts` and `gone` count facts that it brought in and took out; `lost`: none of its facts is live.

    `before` and `after` are means over its facts, `errors` the standard errors of `after`.
    """

    id: str
    subject: str
    message: str
    author: str
    time: str
    kind: str
    parents: tuple[str, ...]
    refs: tuple[str, ...]
    state: str
    graph: GraphRow
    facts: int
    gone: int
    lost: bool
    before: Mapping[str, float | None] = field(default_factory=dict)
    after: Mapping[str, float | None] = field(default_factory=dict)
    errors: Mapping[str, float | None] = field(default_factory=dict)
    perplexity: float | None = None
    solved: bool = False
    """Its facts were solved again, or joined in one patch: they leave by being solved again."""


@dataclass(frozen=True)
class Point:
    """Scores of a fact at a commit (its number in `Report.commits`); None is right before the fact's own commit."""

    commit: int | None
    values: Values

    def get(self, name: str) -> float | None:
        return self.values[OF_FACT.index(name)]


@dataclass(frozen=True)
class FactRow:
    """One fact. `commit` brought it in, `gone` took it out, both as numbers in `Report.commits`.

    `status` is live, reverted or replaced. `points` go from before its commit to the newest measurement. `broke` names
    for what was right and is wrong at the newest measurement the commits of which one made it so, oldest first. It is
    one if the state before it was measured.
    """

    id: str
    subject: str
    prompt: str
    target: str
    old: str | None
    paraphrases: tuple[str, ...]
    neighbours: tuple[tuple[str, str | None], ...]
    generation: tuple[str, ...]
    commit: int
    gone: int | None
    status: str
    points: tuple[Point, ...] = ()
    broke: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    why: Mapping[str, JsonValue] | None = None

    @property
    def last(self) -> Point | None:
        """The newest measurement that was made after the fact's commit."""
        return next((point for point in reversed(self.points) if point.commit is not None), None)

    @property
    def answered(self) -> bool | None:
        """Whether the model gave the target when it was last asked; None if it never was."""
        value = None if self.last is None else self.last.get("rewrite_acc")
        return None if value is None else value >= 1.0


@dataclass(frozen=True)
class Curve:
    """How much of one batch is still answered: (number of commit, share, facts measured), oldest first."""

    commit: int
    points: tuple[tuple[int, float, int], ...]


@dataclass(frozen=True)
class Case:
    """One thing that was asked of two states: a fact's prompt, its paraphrases or its neighbours."""

    fact: int
    what: str
    before: float
    after: float
    since: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """Two states in four buckets. `older` and `newer` say which, in words."""

    older: str
    newer: str
    regressed: tuple[Case, ...]
    fixed: tuple[Case, ...]
    failing: tuple[Case, ...]
    unchanged: int


@dataclass(frozen=True)
class Weights:
    """‖Δ‖/‖W‖ of each commit (by number) in each layer; plain ‖Δ‖ if the base could not be read, which `note` says."""

    layers: tuple[int, ...]
    rows: tuple[tuple[int, tuple[float, ...]], ...]
    note: str | None


@dataclass(frozen=True)
class Pair:
    """At the key of fact `at`, fact `by` adds `share` of what `at`'s own edit adds; both count `Report.facts`."""

    at: int
    by: int
    share: float
    layer: int


@dataclass(frozen=True)
class Interference:
    """The worst pairs first. `note` says what was left out."""

    pairs: tuple[Pair, ...]
    compared: int
    note: str | None


@dataclass(frozen=True)
class Report:
    """Everything that the page says. `commits` are newest first, as the history shows them; `line` are the numbers of
    the first-parent line from the root to the revision.
    """

    base: str
    base_id: str
    revision: str
    branch: str | None
    state: str
    commits: tuple[CommitRow, ...]
    line: tuple[int, ...]
    facts: tuple[FactRow, ...]
    curves: tuple[Curve, ...]
    perplexity: tuple[tuple[int, float], ...]
    base_perplexity: float | None
    comparisons: tuple[Comparison, ...]
    weights: Weights
    interference: Interference
    provenance: Mapping[str, JsonValue]
    hashes_recorded: bool

    @property
    def live(self) -> list[FactRow]:
        return [fact for fact in self.facts if fact.status == "live"]

    @property
    def broken(self) -> list[FactRow]:
        """Live facts that were answered once and no longer are."""
        return [fact for fact in self.live if "prompt" in fact.broke]

    @property
    def never(self) -> list[FactRow]:
        """Live facts that were never answered."""
        return [fact for fact in self.live if fact.answered is False and "prompt" not in fact.broke]

    @property
    def spoiled(self) -> list[FactRow]:
        """Live facts whose neighbours were right once and no longer are."""
        return [fact for fact in self.live if "neighbours" in fact.broke]

    def edited_neighbour(self, fact: FactRow) -> tuple[str, str | None, FactRow] | None:
        """A neighbour of `fact` with its right answer, and the live fact that asks just this and wants another one, if
        that came in where the neighbour may have become wrong: it was edited, not damaged.
        """
        edits = {as_seen(each.prompt): each for each in self.live if each.commit in fact.broke["neighbours"]}
        for prompt, answer in fact.neighbours:
            found = edits.get(as_seen(prompt))
            if found is not None and (answer is None or as_seen(found.target) != as_seen(answer)):
                return prompt, answer, found
        return None
