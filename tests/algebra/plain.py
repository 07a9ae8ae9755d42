"""The algebra again, written plainly: commits with sets of columns, columns with dense float64 deltas."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from torch import Tensor

from memit_vc.objects import ColumnId, CommitId, Fact

__all__ = ["Place", "Plain"]

State = frozenset[ColumnId]


@dataclass(frozen=True)
class Place:
    """Refs and HEAD: what an operation changes. `head` is a branch, or a commit where it is detached."""

    branches: tuple[tuple[str, CommitId], ...]
    head: str

    @property
    def tips(self) -> dict[str, CommitId]:
        return dict(self.branches)

    @property
    def commit(self) -> CommitId:
        return self.tips.get(self.head, CommitId(self.head))

    def moved(self, commit: CommitId) -> Place:
        """HEAD's branch, or the detached HEAD, at another commit."""
        if self.head in self.tips:
            return self.with_branch(self.head, commit)
        return Place(self.branches, commit)

    def with_branch(self, name: str, commit: CommitId) -> Place:
        return Place(tuple(sorted({**self.tips, name: commit}.items())), self.head)


@dataclass
class Plain:
    """What a repository should be."""

    place: Place
    parents: dict[CommitId, tuple[CommitId, ...]]
    states: dict[CommitId, State]
    deltas: dict[ColumnId, dict[str, Tensor]] = field(default_factory=dict)
    facts: dict[ColumnId, tuple[Fact, ...]] = field(default_factory=dict)
    operations: list[tuple[Place, Place]] = field(default_factory=list)

    @property
    def state(self) -> State:
        return self.states[self.place.commit]

    def move(self, place: Place) -> None:
        """An operation, unless nothing changes."""
        if place != self.place:
            self.operations.append((self.place, place))
            self.place = place

    def add(self, commit: CommitId, parents: tuple[CommitId, ...], state: State) -> None:
        self.parents[commit] = parents
        self.states[commit] = state

    def change(self, commit: CommitId) -> tuple[State, State]:
        """(adds, removes) against the first parent."""
        before = self.states[self.parents[commit][0]] if self.parents[commit] else frozenset()
        return self.states[commit] - before, before - self.states[commit]

    def ancestors(self, tips: Iterable[CommitId]) -> set[CommitId]:
        found = set(tips)
        for commit in list(found):
            found |= self.ancestors(self.parents[commit])
        return found

    def live(self, columns: Collection[ColumnId]) -> list[Fact]:
        return [fact for column in columns for fact in self.facts[column]]

    def merged(self, ours: CommitId, theirs: CommitId) -> State:
        """Three ways, column by column, recursively where there are several best common ancestors."""
        return self._merged([ours], theirs, self.states[ours])

    def _merged(self, done: list[CommitId], head: CommitId, state: State) -> State:
        common = self.ancestors(done) & self.ancestors([head])
        best = sorted(c for c in common if not any(c in self.parents[d] for d in common))
        base, seen = self.states[best[0]], [best[0]]
        for other in best[1:]:
            base = self._merged(seen, other, base)
            seen.append(other)
        theirs = self.states[head]
        return frozenset(
            column
            for column in state | theirs
            if ((column in theirs) if (column in state) == (column in base) else (column in state))
        )

    def contradictions(self, state: State, ours: State, theirs: State) -> list[tuple[State, State]]:
        """(our columns, their columns) of each pair of facts with one question and two answers, one from each side."""
        where: dict[Fact, set[ColumnId]] = {}
        for column in state:
            for fact in self.facts[column]:
                where.setdefault(fact, set()).add(column)
        found = []
        for one, first in where.items():
            for other, second in where.items():
                if one.question == other.question and one.target != other.target:
                    apart = first & ours and not first & theirs and second & theirs and not second & ours
                    if apart:
                        found.append((frozenset(first), frozenset(second)))
        return found

    def settled(self, state: State, ours: State, theirs: State, how: str) -> State | None:
        """The joint state with contradictions settled; None where that must be refused."""
        found = self.contradictions(state, ours, theirs)
        if how == "keep-both" or not found:
            return state
        if how == "stop":
            return None
        dropped = frozenset().union(*(pair[1] if how == "ours" else pair[0] for pair in found))
        return None if any(len(self.facts[column]) > 1 for column in dropped) else state - dropped
