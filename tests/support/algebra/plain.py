"""The algebra again, written plainly: commits with sets of columns, columns with dense float64 deltas."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from memit_vc.objects import ColumnId, CommitId, Fact, PatchId

__all__ = ["Place", "Plain", "Refused", "Voice"]

State = frozenset[ColumnId]
NOTHING: State = frozenset()


class Refused(Exception):  # noqa: N818 (a verb that says no)
    """The verb must refuse, and change nothing."""


@dataclass(frozen=True)
class Place:
    """Refs and HEAD: what an operation changes. `head` is a branch, or a commit where it is detached."""

    branches: tuple[tuple[str, CommitId], ...]
    head: str
    tags: tuple[tuple[str, CommitId], ...] = ()

    @property
    def tips(self) -> dict[str, CommitId]:
        return dict(self.branches)

    @property
    def commit(self) -> CommitId:
        return self.tips.get(self.head, CommitId(self.head))

    @property
    def all(self) -> set[CommitId]:
        return {self.commit, *dict(self.branches).values(), *dict(self.tags).values()}

    def moved(self, commit: CommitId) -> Place:
        """HEAD's branch, or the detached HEAD, at another commit."""
        if self.head in self.tips:
            return self.with_branch(self.head, commit)
        return Place(self.branches, commit, self.tags)

    def with_branch(self, name: str, commit: CommitId) -> Place:
        return Place(tuple(sorted({**self.tips, name: commit}.items())), self.head, self.tags)

    def with_tag(self, name: str, commit: CommitId) -> Place:
        return Place(self.branches, self.head, tuple(sorted({**dict(self.tags), name: commit}.items())))

    def at(self, head: str) -> Place:
        return Place(self.branches, head, self.tags)


@dataclass(frozen=True)
class Voice:
    """A state that takes part in a join, the facts that it speaks for, and whether its columns replace a loser's."""

    state: State
    facts: frozenset[Fact]
    wins: bool = False


@dataclass
class Plain:
    """What a repository should be."""

    place: Place
    parents: dict[CommitId, tuple[CommitId, ...]]
    states: dict[CommitId, State]
    deltas: dict[ColumnId, dict[str, Tensor]] = field(default_factory=dict)
    facts: dict[ColumnId, tuple[Fact, ...]] = field(default_factory=dict)
    cancels: set[ColumnId] = field(default_factory=set)
    operations: list[tuple[int, Place, Place]] = field(default_factory=list)
    done: list[tuple[int, Place, Place]] = field(default_factory=list)
    """What `undo` takes back, the last first."""
    undone: list[tuple[int, tuple[int, Place, Place]]] = field(default_factory=list)
    """What `redo` brings back, the last first, each with the number of the undo."""
    kept: dict[PatchId, tuple[ColumnId, ...]] = field(default_factory=dict)

    @property
    def state(self) -> State:
        return self.states[self.place.commit]

    def move(self, place: Place, operation: int) -> None:
        """An operation, unless nothing changes."""
        if place != self.place:
            self._log(operation, place)
            self.done.append(self.operations[-1])
            self.undone.clear()

    def undo(self, operation: int) -> None:
        taken = self.done.pop()
        self._log(operation, taken[1])
        self.undone.append((operation, taken))

    def redo(self, operation: int) -> None:
        _, brought = self.undone.pop()
        self._log(operation, brought[2])
        self.done += [brought] if brought in self.operations else []

    def _log(self, operation: int, place: Place) -> None:
        self.operations.append((operation, self.place, place))
        self.place = place

    def prune(self, keep: int) -> None:
        """Only the last operations are known any more."""
        del self.operations[:-keep]
        numbers = {number for number, *_ in self.operations}
        self.done = [each for each in self.done if each[0] in numbers]
        self.undone = [each for each in self.undone if each[0] in numbers]

    def add(self, commit: CommitId, parents: tuple[CommitId, ...], state: State) -> None:
        self.parents[commit] = parents
        self.states[commit] = state

    def change(self, commit: CommitId) -> tuple[State, State]:
        """(adds, removes) against the first parent."""
        before = self.before(commit)
        return self.states[commit] - before, before - self.states[commit]

    def before(self, commit: CommitId) -> State:
        return self.states[self.parents[commit][0]] if self.parents[commit] else NOTHING

    def ancestors(self, tips: Iterable[CommitId]) -> set[CommitId]:
        found = set(tips)
        for commit in list(found):
            found |= self.ancestors(self.parents[commit])
        return found

    def of(self, fact: Fact, state: Collection[ColumnId]) -> State:
        return frozenset(column for column in state if fact in self.facts[column])

    def live(self, state: Collection[ColumnId]) -> frozenset[Fact]:
        """Facts that some column puts in and none takes out."""
        told = {fact for column in state if column not in self.cancels for fact in self.facts[column]}
        return frozenset(told - {fact for column in state if column in self.cancels for fact in self.facts[column]})

    def holds(self, place: Place, patch: PatchId) -> bool:
        """Whether some commit that a ref has in its history brought a column of a kept patch in."""
        return any(not self.change(c)[0].isdisjoint(self.kept[patch]) for c in self.ancestors(place.all))

    def forget_kept(self) -> None:
        """What operations were pruned to can lead to no place without these."""
        places = [self.place, *(place for _, *both in self.operations for place in both)]
        for patch in [patch for patch in self.kept if all(self.holds(place, patch) for place in places)]:
            del self.kept[patch]

    def merged(self, ours: CommitId, theirs: CommitId) -> State:
        """Three ways, column by column, recursively where there are several best common ancestors. What both sides
        answer stays answered.
        """
        state = self._merged([ours], theirs, self.states[ours])
        mine, other = self.states[ours], self.states[theirs]
        asked = {fact.question for fact in self.live(mine)} & {fact.question for fact in self.live(other)}
        asked -= {fact.question for fact in self.live(state)}
        back = {fact for fact in self.live(mine) | self.live(other) if fact.question in asked}
        for column in state & self.cancels:
            if set(self.facts[column]) <= back:
                state -= {column}
        for fact in back:
            state |= min((self.of(fact, side) for side in (mine, other) if fact in self.live(side)), key=sorted)
        return state

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

    def committed(self, batch: Sequence[Fact], how: str) -> tuple[list[Fact], State]:
        """The facts that are to be computed, and the columns that leave for them."""
        wanted, gone, live = [], set[ColumnId](), self.live(self.state)
        for fact in batch:
            others = [known for known in live if known.question == fact.question]
            if fact in others or (others and how == "ours"):
                continue
            if others and how == "stop":
                raise Refused
            wanted.append(fact)
            replaced = others if how == "theirs" else []
            cancelled = [fact] if any(c in self.cancels for c in self.of(fact, self.state)) else []
            for known in (*replaced, *cancelled):
                gone |= self.of(known, self.state)
        if not wanted or any(len(self.facts[column]) > 1 for column in gone):
            raise Refused
        return wanted, frozenset(gone)

    def reverted(self, state: State, commits: Sequence[CommitId]) -> State:
        """Without what the commits did, the newest first. For each question a commit either only gave an answer, only
        took one away, or put one in the place of another: that is exchanged again, while it is as the commit left it.
        """
        for commit in commits:
            adds, removes = self.change(commit)
            after, live, listed = self.live(self.states[commit]), self.live(state), self.live(self.before(commit))
            back = set()
            for column in removes - state:
                asked = {fact.question for fact in self.facts[column]}
                answers = [
                    (new, fact) for new in adds - self.cancels for fact in self.facts[new] if fact.question in asked
                ]
                if answers:
                    exchanged = any(new in state and (fact in live or fact not in after) for new, fact in answers)
                elif listed.isdisjoint(self.facts[column]):
                    exchanged = not adds or not adds.isdisjoint(state)
                else:
                    exchanged = True
                if exchanged:
                    back.add(column)
            state = (state - adds) | back
        return state

    def joined(self, state: State, ours: State, theirs: Sequence[Voice], how: str) -> State:
        """The joint state with pairs kept together and contradictions settled."""
        voices = [Voice(ours, self.live(ours)), *theirs]
        state = self._paired(state, [voice.state for voice in voices])
        found = [
            (one, other)
            for one in self.live(state)
            for other in self.live(state)
            if one.question == other.question
            and one.target < other.target
            and not any(one in voice.facts and other in voice.facts for voice in voices)
        ]
        if how == "keep-both" or not found:
            return state
        mine = voices[0].facts
        if how == "stop" or (how == "theirs" and any(one not in mine and other not in mine for one, other in found)):
            raise Refused
        lost = {fact for pair in found for fact in pair if (fact in mine) == (how == "theirs")}
        winner = ours if how == "ours" else NOTHING.union(*(voice.state for voice in theirs if voice.wins))
        wanted = {fact: self.of(fact, winner) for fact in lost}
        return self._changed(state, {fact: (self.of(fact, state) - new, new) for fact, new in wanted.items()})

    def _paired(self, state: State, sides: Sequence[State]) -> State:
        """A fact is cancelled by what a side cancels it with, whole; else what was edited in apart from that stays."""
        changes: dict[Fact, tuple[State, State]] = {}
        for fact in {fact for column in state & self.cancels for fact in self.facts[column]}:
            mine = self.of(fact, state)
            if mine <= self.cancels or not any(self.of(fact, side) == mine for side in sides):
                known = [self.of(fact, side) for side in sides]
                settled = NOTHING.union(*(columns for columns in known if columns & self.cancels))
                changes[fact] = (mine & (settled | self.cancels), NOTHING)
        return self._changed(state, changes)

    def _changed(self, state: State, changes: dict[Fact, tuple[State, State]]) -> State:
        for side in (0, 1):
            for column in NOTHING.union(*(change[side] for change in changes.values())):
                moved = column in state if side == 0 else column not in state
                if moved and any(
                    column not in changes.get(fact, (NOTHING, NOTHING))[side] for fact in self.facts[column]
                ):
                    raise Refused
        gone = NOTHING.union(*(out for out, _ in changes.values()))
        return (state - gone).union(*(back for _, back in changes.values()))
