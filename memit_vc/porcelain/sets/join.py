"""States that come together. Every verb that changes a set of columns asks `join` what may be in it: merge, revert,
cherry-pick, `commit --patch`, rebase, import, and those that solve again (docs/architecture.md, "What always holds").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from memit_vc.errors import ConflictError
from memit_vc.objects import ColumnId, CommitId, Fact, FactId, PatchId, short
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import count
from memit_vc.vcs.contradictions import Contradiction, OnConflict, losers, pairs_apart
from memit_vc.vcs.settling import Roles, Split, columns_of_facts, drop, live_edits, unpaired
from memit_vc.vcs.state import Change, State


@dataclass(frozen=True)
class Side:
    """A state that takes part. Its columns came from the state's origins, else from `commit`, or from a kept `patch`.

    `change`, if given, are the columns that the side speaks of: a pick brings the change of one commit, not the whole
    state that it was made on. With `wins`, a fact of ours that loses gets the side's columns; else it gets none.
    """

    live: LiveState
    change: State | None = None
    commit: CommitId | None = None
    patch: PatchId | None = None
    wins: bool = False

    @property
    def state(self) -> State:
        return self.live.columns

    def origin(self, columns: Collection[ColumnId]) -> CommitId | None:
        known = self.live.origins
        return next((known[column] for column in sorted(columns) if column in known), self.commit)

    def says(self, roles: Roles) -> dict[FactId, State]:
        """The live facts that the side speaks of, and their columns."""
        live = live_edits(self.state, roles)
        if self.change is None:
            return live
        named = touched(self.change, roles)
        return {fact: columns for fact, columns in live.items() if fact in named}


@dataclass(frozen=True)
class Joined:
    """A state that holds the invariants, and the change from our state to it. `twice` are facts of which it has more
    columns than any side; `unpaired` are facts that had been cancelled and whose cancel columns left.
    """

    state: State
    change: Change
    contradictions: tuple[Contradiction, ...]
    twice: tuple[Fact, ...]
    unpaired: tuple[Fact, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        found = []
        if self.twice:
            verb = "counts" if len(self.twice) == 1 else "count"
            found.append(
                f"{count(len(self.twice), 'fact')} now {verb} twice ({_named(self.twice)}), by independent edits, "
                "and may overshoot. Revert one of the edits, or use --resolve."
            )
        if self.unpaired:
            found.append(
                f"{count(len(self.unpaired), 'fact')} had been taken out with --resolve ({_named(self.unpaired)}); "
                "the columns that did so left, too. `memitvc squash --resolve` solves the rest again"
            )
        return tuple(found)


def join(
    ours: LiveState, wanted: Collection[ColumnId], theirs: Sequence[Side], on_conflict: OnConflict, *, what: str
) -> Joined:
    """`wanted`, which was made of our state and the sides, without columns that lost their pair and with contradictions
    settled.

    A fact that loses keeps the columns that the winning side has of it: none, or a pair that takes it out.
    ConflictError (exit code 13) lists the contradictions, or names a patch that would have to be split; EngineError if
    sums with a new column could round.
    """
    mine = Side(ours)
    sides = [mine, *theirs]
    roles = ours.known.column_facts(
        frozenset(wanted).union(*(side.state | (side.change or frozenset()) for side in sides))
    )
    lost = unpaired(wanted, [side.state for side in sides], roles)
    joint = without(frozenset(wanted), lost, roles)
    live = live_edits(joint, roles)
    facts = ours.known.facts({fact for pairs in roles.values() for fact, _ in pairs})
    said = [side.says(roles) for side in sides]
    found = [
        _paired(one, other, live, mine, theirs)
        for one, other in pairs_apart([facts[fact] for fact in live], said[0], said[1:])
    ]
    winners = [mine] if on_conflict == "ours" else [side for side in theirs if side.wins]
    gone = losers(found, said[0], on_conflict, what=what)
    settled = _as_in(joint, frozenset[ColumnId]().union(*(side.state for side in winners)), gone, roles)
    change = ours.change_to(settled)
    if change.adds:
        LiveState(ours.repository, settled, known=ours.known).check_exact()
    return Joined(
        settled,
        change,
        tuple(found),
        tuple(_twice(live_edits(settled, roles), said, facts)),
        tuple(facts[fact] for fact in dict.fromkeys(fact for names in lost.values() for fact in names)),
    )


def touched(columns: Collection[ColumnId], roles: Roles) -> set[FactId]:
    """The facts that some columns are of, whatever they do to them."""
    return {fact for column in columns for fact, _ in roles[column]}


def _paired(one: Fact, other: Fact, live: Mapping[FactId, State], ours: Side, theirs: Sequence[Side]) -> Contradiction:
    origins = [side.origin(live[other.id]) for side in theirs]
    return Contradiction(
        one,
        other,
        ours.origin(live[one.id]),
        next((origin for origin in origins if origin is not None), None),
        next((side.patch for side in theirs if side.patch is not None), None),
    )


def without(state: State, leaving: Mapping[ColumnId, Collection[FactId]], roles: Roles) -> State:
    """`state` without the `leaving` columns, each with the facts that leave. ConflictError if a column has others."""
    try:
        return drop(state, leaving, roles)
    except Split as split:
        raise ConflictError(
            f"a fact to drop belongs to a patch of {split.facts} facts, which cannot be split",
            hint=f"Revert its whole commit first (column {short(split.column)}), use --keep-both, or clear the way "
            "with `memitvc squash --resolve`.",
        ) from split


def _as_in(state: State, winner: State, facts: Collection[FactId], roles: Roles) -> State:
    """`state` with the columns of some facts as `winner` has them."""
    here, there = columns_of_facts(state, roles), columns_of_facts(winner, roles)
    leaving: dict[ColumnId, set[FactId]] = {}
    back: dict[ColumnId, set[FactId]] = {}
    for fact in facts:
        wanted = there[fact].all if fact in there else frozenset()
        for column in here[fact].all - wanted:
            leaving.setdefault(column, set()).add(fact)
        for column in wanted - here[fact].all:
            back.setdefault(column, set()).add(fact)
    without(frozenset(back), back, roles)  # columns that come back must belong to these facts alone, too
    return without(state, leaving, roles) | back.keys()


def _twice(
    live: Mapping[FactId, State], sides: Sequence[Mapping[FactId, State]], facts: Mapping[FactId, Fact]
) -> list[Fact]:
    """Facts with more columns than on any side."""

    def counted(edits: Mapping[FactId, State]) -> Counter[tuple[tuple[str, str], str]]:
        total: Counter[tuple[tuple[str, str], str]] = Counter()
        for fact, columns in edits.items():
            total[facts[fact].claim] += len(columns)
        return total

    before = [counted(side) for side in sides]
    named = {facts[fact].claim: facts[fact] for fact in live}
    return [
        named[claim]
        for claim, number in counted(live).items()
        if number > 1 and all(number > side[claim] for side in before)
    ]


def _named(facts: Sequence[Fact]) -> str:
    return ", ".join(dict.fromkeys(fact.subject for fact in facts[:5])) + (", …" if len(facts) > 5 else "")
