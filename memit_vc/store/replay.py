"""New commits replayed on a history: the state of each, and what must hold before a repository takes it in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeAlias

from memit_vc.errors import IntegrityError
from memit_vc.objects import BaseId, ColumnId, Commit, CommitId, short

State: TypeAlias = frozenset[ColumnId]


def replayed(
    commits: Sequence[Commit],
    base: BaseId,
    *,
    known: Collection[CommitId],
    columns: Collection[ColumnId],
    state: Callable[[CommitId], State],
) -> Iterator[tuple[Commit, State]]:
    """(commit, its state) of each of `commits`, parents before children; those that are `known` are passed over.

    `state` gives the state of a known commit, `columns` are those that some patch holds. IntegrityError for a commit
    that no repository would have made. Whoever stores commits and whoever receives them ask here, so what one accepts
    the other does not refuse.
    """
    known, columns = set(known), set(columns)
    waiting = Counter(commit.parents[0] for commit in commits if commit.parents and commit.id not in known)
    states: dict[CommitId, State] = {}
    for commit in commits:
        if commit.id in known:
            continue
        where = f"commit {short(commit.id)}"
        if commit.base != base:
            raise IntegrityError(f"{where} belongs to base {short(commit.base)}, this repository has {short(base)}")
        if absent := [parent for parent in commit.parents if parent not in known]:
            raise IntegrityError(f"{where}: its parent {short(absent[0])} is not in this repository")
        if len(set(commit.parents)) != len(commit.parents):
            raise IntegrityError(f"{where} names a parent twice")
        adds, removes = frozenset(commit.adds), frozenset(commit.removes)
        if unheld := (adds | removes) - columns:
            raise IntegrityError(f"{where}: no patch holds its column {short(min(unheld))}")
        if both := adds & removes:
            raise IntegrityError(f"{where} both adds and removes column {short(min(both))}")
        before: State = frozenset()
        if commit.parents:
            first = commit.parents[0]
            before = states[first] if first in states else state(first)
            waiting[first] -= 1
            if not waiting[first]:
                states.pop(first, None)  # a long line of commits holds one state at a time
        if lacking := removes - before:
            raise IntegrityError(f"{where} removes column {short(min(lacking))}, which is not in its parent's state")
        after = (before - removes) | adds
        if waiting[commit.id]:
            states[commit.id] = after
        yield commit, after
        known.add(commit.id)
