"""What a history says to another base: its live facts, step by step, each with the commit that it came in with."""

from __future__ import annotations

from dataclasses import dataclass

from memit_vc.errors import MemitVCError
from memit_vc.objects import Commit, CommitId, Fact, FactId
from memit_vc.repository import Repository
from memit_vc.vcs.contradictions import Contradiction, OnConflict, contradicting, losers
from memit_vc.vcs.graph import ancestors


@dataclass(frozen=True)
class Step:
    """A commit, and those of its facts that are to be replayed."""

    commit: Commit
    facts: tuple[Fact, ...]


def steps_of(repository: Repository, head: CommitId, on_conflict: OnConflict, *, what: str) -> list[Step]:
    """The live facts at `head` by the commits that brought them in, oldest first. A claim comes once.

    Of contradicting facts, the earlier one is ours, the later one theirs. ConflictError for "stop"; MemitVCError if no
    fact is live.
    """
    brought = _brought(repository, head)
    if not brought:
        raise MemitVCError(
            f"{what}: no fact is live, so there is nothing to replay",
            hint="Switch to a branch that has facts, or start afresh: `memitvc init NEW`.",
        )
    first = {fact.claim: fact.id for fact, _ in reversed(brought)}
    brought = [(fact, commit) for fact, commit in brought if first[fact.claim] == fact.id]
    came = {fact.id: commit for fact, commit in brought}
    found = [
        Contradiction(old, new, came[old.id], came[new.id]) for old, new in contradicting(fact for fact, _ in brought)
    ]
    gone = losers(found, {each.ours.id for each in found}, on_conflict, what=what)
    steps: dict[CommitId, list[Fact]] = {}
    for fact, commit in brought:
        if fact.id not in gone:
            steps.setdefault(commit, []).append(fact)
    commits = repository.commits(steps)
    return [Step(commits[commit], tuple(facts)) for commit, facts in steps.items()]


def _brought(repository: Repository, head: CommitId) -> list[tuple[Fact, CommitId]]:
    """The live facts, each with its commit, in the order of commits.

    `--resolve` and `--compress` give facts new columns: these belong to the commits that had the facts before.
    """
    live = repository.live_facts(head)
    commits = repository.commits({entry.commit for entry in live})
    solved = {id_ for id_, commit in commits.items() if commit.details.keys() & {"resolve", "compress"}}
    first: dict[FactId, CommitId] = {}
    if solved:
        history = repository.commits(ancestors([head], repository.parents))
        for commit in sorted(history.values(), key=lambda commit: repository.order(commit.id)):
            for pairs in repository.column_facts(commit.adds).values():
                for fact, role in pairs:
                    if role == "edit":
                        first.setdefault(fact, commit.id)
    found = [(entry.fact, first[entry.fact.id] if entry.commit in solved else entry.commit) for entry in live]
    return sorted(found, key=lambda pair: repository.order(pair[1]))
