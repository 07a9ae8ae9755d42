"""States that come together. Every verb that changes a set of columns asks `join` what may be in it: merge, revert,
cherry-pick, `commit --patch`, rebase, import, and those that solve anew (docs/architecture.md, "What always holds").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from memit_vc.errors import ConflictError
from memit_vc.objects import ColumnId, CommitId, Fact, FactId, PatchId, short
from memit_vc.porcelain.sets.conflicts import OnConflict
from memit_vc.porcelain.sets.contradictions import Contradiction, losers, pairs_apart
from memit_vc.progress import count
from memit_vc.vcs.settling import Roles, Split, columns_of_facts, drop, live_edits, unpaired
from memit_vc.vcs.state import State

__all__ = ["Described", "Joined", "Side", "join", "touched"]


class Described(Protocol):
    """Where the facts of columns are known: a repository, or one together with what is about to come in."""

    def column_facts(self, columns: Collection[ColumnId]) -> dict[ColumnId, list[tuple[FactId, str]]]: ...
    def facts(self, ids: Collection[FactId]) -> dict[FactId, Fact]: ...


@dataclass(frozen=True)
class Side:
    """A state that takes part, and the commits that its columns came from (else `commit`, or a kept `patch`).

    `change`, where given, are the columns that the side speaks of: a pick brings what one commit changed, not all that
    lives where it was made. With `wins` its columns hold for a fact of ours that loses; else that fact has none.
    """

    state: State
    origins: Mapping[ColumnId, CommitId] = field(default_factory=dict)
    change: State | None = None
    commit: CommitId | None = None
    patch: PatchId | None = None
    wins: bool = False

    def origin(self, columns: Collection[ColumnId]) -> CommitId | None:
        return next((self.origins[column] for column in sorted(columns) if column in self.origins), self.commit)

    def says(self, roles: Roles) -> dict[FactId, frozenset[ColumnId]]:
        """The live facts that the side speaks of, and their columns."""
        live = live_edits(self.state, roles)
        if self.change is None:
            return live
        named = touched(self.change, roles)
        return {fact: columns for fact, columns in live.items() if fact in named}


@dataclass(frozen=True)
class Joined:
    """A state that holds the invariants. `twice` are facts that it has more columns of than any side, `unpaired` those
    that had been cancelled and whose cancel columns left.
    """

    state: State
    contradictions: tuple[Contradiction, ...]
    twice: tuple[Fact, ...]
    unpaired: tuple[Fact, ...]

    def notes(self) -> list[str]:
        """What the user should know of it, in plain sentences."""
        found = []
        if self.twice:
            one = len(self.twice) == 1
            found.append(
                f"{count(len(self.twice), 'fact')} now count{'s' if one else ''} twice ({_named(self.twice)}): "
                f"{'it is' if one else 'they are'} live in columns that were computed apart; `memitvc revert` one of "
                "them, or use --resolve"
            )
        if self.unpaired:
            found.append(
                f"{count(len(self.unpaired), 'fact')} had been taken out with --resolve ({_named(self.unpaired)}); "
                "the columns that did so left too, and `memitvc squash --resolve` solves the rest afresh"
            )
        return found


def join(
    repository: Described,
    state: Collection[ColumnId],
    ours: Side,
    theirs: Sequence[Side],
    on_conflict: OnConflict,
    *,
    what: str,
) -> Joined:
    """`state`, which was made of the sides, without columns that lost their pair and with contradictions settled.

    Of a fact that loses, the columns are those that the winning side has of it: none, or a pair that takes it out.
    ConflictError (exit code 13) lists the contradictions, or names a patch that would have to be split.
    """
    sides = [ours, *theirs]
    roles = repository.column_facts(
        frozenset(state).union(*(side.state | (side.change or frozenset()) for side in sides))
    )
    lost = unpaired(state, [side.state for side in sides], roles)
    joint = _dropped(frozenset(state), lost, roles)
    live = live_edits(joint, roles)
    facts = repository.facts({fact for pairs in roles.values() for fact, _ in pairs})
    said = [side.says(roles) for side in sides]
    found = [
        _told(one, other, live, ours, theirs)
        for one, other in pairs_apart([facts[fact] for fact in live], said[0], said[1:])
    ]
    winners = [ours] if on_conflict == "ours" else [side for side in theirs if side.wins]
    gone = losers(found, said[0], on_conflict, what=what)
    settled = _as_in(joint, frozenset[ColumnId]().union(*(side.state for side in winners)), gone, roles)
    return Joined(
        settled,
        tuple(found),
        tuple(_twice(live_edits(settled, roles), said, facts)),
        tuple(facts[fact] for fact in dict.fromkeys(fact for names in lost.values() for fact in names)),
    )


def touched(columns: Collection[ColumnId], roles: Roles) -> set[FactId]:
    """The facts that some columns are of, whatever they do to them."""
    return {fact for column in columns for fact, _ in roles[column]}


def _told(
    one: Fact, other: Fact, live: Mapping[FactId, frozenset[ColumnId]], ours: Side, theirs: Sequence[Side]
) -> Contradiction:
    origins = [side.origin(live[other.id]) for side in theirs]
    return Contradiction(
        one,
        other,
        ours.origin(live[one.id]),
        next((origin for origin in origins if origin is not None), None),
        next((side.patch for side in theirs if side.patch is not None), None),
    )


def _dropped(state: State, leaving: Mapping[ColumnId, Collection[FactId]], roles: Roles) -> State:
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
    _dropped(frozenset(back), back, roles)  # what comes back must be of these facts alone, too
    return _dropped(state, leaving, roles) | back.keys()


def _twice(
    live: Mapping[FactId, frozenset[ColumnId]],
    sides: Sequence[Mapping[FactId, frozenset[ColumnId]]],
    facts: Mapping[FactId, Fact],
) -> list[Fact]:
    """Facts with more columns than on any side. Facts that differ in their probes only are one."""

    def counted(edits: Mapping[FactId, frozenset[ColumnId]]) -> Counter[tuple[tuple[str, str], str]]:
        total: Counter[tuple[tuple[str, str], str]] = Counter()
        for fact, columns in edits.items():
            total[facts[fact].question, facts[fact].target.strip()] += len(columns)
        return total

    before = [counted(side) for side in sides]
    named = {(facts[fact].question, facts[fact].target.strip()): facts[fact] for fact in live}
    return [
        named[answer]
        for answer, number in counted(live).items()
        if number > 1 and all(number > side[answer] for side in before)
    ]


def _named(facts: Sequence[Fact]) -> str:
    return ", ".join(dict.fromkeys(fact.subject for fact in facts[:5])) + (", …" if len(facts) > 5 else "")
