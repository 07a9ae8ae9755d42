"""States as sets of columns (docs/architecture.md): change, difference, three-way merge."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from typing import TypeAlias

from memit_vc.objects import BaseId, ColumnId, Commit, CommitId, StateId, canonical_json, digest
from memit_vc.vcs.graph import Parents, merge_bases

State: TypeAlias = frozenset[ColumnId]


@dataclass(frozen=True, slots=True)
class Change:
    """What a commit does to its first parent's state. False if it does nothing."""

    adds: State
    removes: State

    @classmethod
    def of(cls, commit: Commit) -> Change:
        return cls(frozenset(commit.adds), frozenset(commit.removes))

    def __bool__(self) -> bool:
        return bool(self.adds or self.removes)


def state_id(base: BaseId, columns: Collection[ColumnId]) -> StateId:
    """digest("state", [base, *sorted columns])."""
    return StateId(digest("state", canonical_json([base, *sorted(set(columns))])))


def apply(state: State, change: Change) -> State:
    """(state − removes) ∪ adds."""
    return (state - change.removes) | change.adds


def change_between(old: State, new: State) -> Change:
    """The smallest change that makes `new` of `old`."""
    return Change(adds=new - old, removes=old - new)


def merge(base: State, ours: State, theirs: State) -> State:
    """Per column, three ways, "present or not": if the sides differ, the one that differs from the base wins.

    Two-valued, so it never conflicts; it is symmetric in `ours` and `theirs`.
    """
    return (ours & theirs) | ((ours ^ theirs) - base)


def merge_commits(ours: CommitId, theirs: CommitId, parents: Parents, state: Callable[[CommitId], State]) -> State:
    """The merged state of two commits. Several merge bases are first merged with each other, recursively."""
    known: dict[_Heads, State] = {}
    # an explicit stack: a long history of criss-cross merges is deeper than Python's own
    stack = [_merge_heads((ours, theirs), parents, state)]
    result: State | None = None
    while stack:
        try:
            wanted = stack[-1].send(result) if result is not None else next(stack[-1])
        except StopIteration as finished:
            stack.pop()
            result = finished.value
            continue
        result = known.get(wanted)
        if result is None:
            stack.append(_remember(wanted, known, _merge_heads(wanted, parents, state)))
    return result if result is not None else frozenset()


_Heads: TypeAlias = tuple[CommitId, ...]
_Step: TypeAlias = Generator[_Heads, State, State]
"""Yields heads whose merged state it needs, is sent that state, returns its own."""


def _merge_heads(heads: _Heads, parents: Parents, state: Callable[[CommitId], State]) -> _Step:
    """One head after another, each against the merge base of what is merged so far and itself."""
    if not heads:
        return frozenset()
    merged, done = state(heads[0]), [heads[0]]
    for head in heads[1:]:
        base = yield tuple(merge_bases(done, [head], parents))
        merged = merge(base, merged, state(head))
        done.append(head)
    return merged


def _remember(heads: _Heads, known: dict[_Heads, State], step: _Step) -> _Step:
    known[heads] = yield from step
    return known[heads]
