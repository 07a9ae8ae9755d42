"""What each fact scored before and after it came in: measured by `commit`, handed on by commits in its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from memit_vc.objects import CommitId, FactId, JsonValue, StateId
from memit_vc.porcelain.state import LiveState

if TYPE_CHECKING:
    from memit_vc.repository import Repository
    from memit_vc.store.publish import Evaluation


Scores: TypeAlias = Mapping[str, float | None]
"""ES, PS, NS, rewrite_acc, …, nll of one fact (`numerics.scores`)."""

Came: TypeAlias = "tuple[Scores | None, Scores]"
"""One fact's scores before its commit, where they are known, and right after it."""

HANDED_ON = "handed_on"
"""The kind of evaluation that holds what a commit was handed on by those it replaces."""


def came_in(repository: Repository, commits: Collection[CommitId]) -> dict[CommitId, dict[FactId, Came]]:
    """Of the facts that each commit brought in; {} where nothing was measured."""
    handed: Any = repository.evaluations_of(commits, HANDED_ON)
    measured: Any = repository.evaluations_of(commits, "commit")
    found: dict[CommitId, dict[FactId, Came]] = {}
    for commit in commits:
        found[commit] = {}
        sides = {side: scores["facts"] for side, scores in measured.get(commit, {}).items()}
        for record in (handed.get(commit, {}), sides):
            before = record.get("before", {})
            found[commit] |= {FactId(fact): (before.get(fact), each) for fact, each in record.get("after", {}).items()}
    return found


def handed_on_to(repository: Repository, commit: CommitId) -> Mapping[str, Any] | None:
    """What a commit was handed on: {"before": {fact: scores}, "after": {fact: scores}}; None where it was not."""
    handed: Any = repository.evaluations_of([commit], HANDED_ON)
    record: Mapping[str, Any] | None = handed.get(commit)
    return record


def scores_at_commit(repository: Repository, commits: Collection[CommitId]) -> dict[CommitId, dict[FactId, Scores]]:
    """Of the facts that each commit brought in, right after it; {} where nothing was measured."""
    came = came_in(repository, commits)
    return {commit: {fact: after for fact, (_, after) in facts.items()} for commit, facts in came.items()}


def handed_on(repository: Repository, old: Sequence[CommitId], state: StateId, new: CommitId) -> list[Evaluation]:
    """Rows for one commit in the place of several, the oldest first: a fact keeps its scores of the last of them."""
    found: dict[FactId, Came] = {}
    came = came_in(repository, old)
    for commit in old:
        found |= came[commit]
    if not found:
        return []
    record: dict[str, JsonValue] = {
        "before": {fact: dict(before) for fact, (before, _) in found.items() if before is not None},
        "after": {fact: dict(after) for fact, (_, after) in found.items()},
    }
    return [(state, new, HANDED_ON, new, record)]


def scores_of(repository: Repository, old: CommitId, new: CommitId) -> list[Evaluation]:
    """Rows for the same commit under a new id: its state is the same."""
    state = LiveState.at(repository, old).id
    return [
        (state, new, kind, new, repository.evaluations(state, kind)[kind, old])
        for kind in ("commit", HANDED_ON)
        if (kind, old) in repository.evaluations(state, kind)
    ]
