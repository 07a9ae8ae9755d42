"""Bisection on a graph of commits: which one to try next."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from memit_vc.objects import CommitId
from memit_vc.vcs.graph import Parents


def next_to_try(
    candidates: Sequence[CommitId], bad: CommitId, parents: Parents, skipped: Collection[CommitId] = ()
) -> CommitId | None:
    """The commit whose answer is worth most: as many candidates in its history as out of it, as nearly as possible.

    `candidates` are all that can be the first bad one, parents before children. None
    where only `bad` itself and skipped commits are left.
    """
    history: dict[CommitId, int] = {}
    best: CommitId | None = None
    best_worth = 0
    for index, commit in enumerate(candidates):
        # a set of candidates is a whole number with one bit for each: a long history stays quick
        mask = 1 << index
        for parent in parents(commit):
            mask |= history.get(parent, 0)
        history[commit] = mask
        reached = bin(mask).count("1")
        worth = min(reached, len(candidates) - reached)
        if commit != bad and commit not in skipped and worth > best_worth:
            best, best_worth = commit, worth
    return best
