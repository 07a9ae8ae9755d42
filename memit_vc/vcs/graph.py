"""The commit graph as pure functions over `parents`: no rows, no files."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from memit_vc.objects import CommitId

Parents: TypeAlias = Callable[[CommitId], Sequence[CommitId]]
Order: TypeAlias = Callable[[CommitId], int]
"""A number that is greater for a commit than for its parents: the sequence in which they were stored."""


def ancestors(tips: Iterable[CommitId], parents: Parents) -> set[CommitId]:
    """Every commit reachable from `tips`, the tips included."""
    found: set[CommitId] = set()
    pending = list(tips)
    while pending:
        commit = pending.pop()
        if commit not in found:
            found.add(commit)
            pending.extend(parents(commit))
    return found


def is_ancestor(older: CommitId, newer: CommitId, parents: Parents) -> bool:
    """Whether `newer` has `older` in its history; a commit is its own ancestor."""
    return older in ancestors([newer], parents)


def merge_bases(ours: Iterable[CommitId], theirs: Iterable[CommitId], parents: Parents) -> list[CommitId]:
    """The best common ancestors, sorted by id: those from which no other common ancestor descends.

    Criss-cross merges have several. Sorted by id, so that every repository sees them in one order.
    """
    common = ancestors(ours, parents) & ancestors(theirs, parents)
    # common ancestors are closed under parents, so one that is not best has a child among them
    covered = {parent for commit in common for parent in parents(commit)}
    return sorted(common - covered)


def newest_first(tips: Iterable[CommitId], parents: Parents, order: Order) -> Iterator[CommitId]:
    """Every commit reachable from `tips`, children before parents, each once; lazily."""
    heap = [(-order(commit), commit) for commit in set(tips)]
    heapq.heapify(heap)
    seen = {commit for _, commit in heap}
    while heap:
        _, commit = heapq.heappop(heap)
        yield commit
        for parent in parents(commit):
            if parent not in seen:
                seen.add(parent)
                heapq.heappush(heap, (-order(parent), parent))


def commits_between(older: CommitId, newer: CommitId, parents: Parents, order: Order) -> list[CommitId]:
    """`older..newer`: what `newer` has in its history and `older` has not, oldest first."""
    known = ancestors([older], parents)
    return [commit for commit in newest_first([newer], parents, order) if commit not in known][::-1]
