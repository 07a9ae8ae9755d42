"""The scores of each fact before and after its commit: measured by `commit`, handed on to commits that replace it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from memit_vc.objects import CommitId, FactId, JsonValue, StateId
from memit_vc.objects.commit_record import HANDED_ON
from memit_vc.porcelain.state import LiveState

if TYPE_CHECKING:
    from memit_vc.repository import Repository
    from memit_vc.store.publish import Evaluation


Scores: TypeAlias = Mapping[str, float | None]
"""ES, PS, NS, rewrite_acc, …, nll of one fact (`numerics.scores.scores`)."""

Came: TypeAlias = "tuple[Scores | None, Scores]"
"""One fact's scores before its commit, if they are known, and right after it."""


def came_in(repository: Repository, commits: Collection[CommitId]) -> dict[CommitId, dict[FactId, Came]]:
    """The scores of the facts that each commit added; {} if nothing was measured."""
    handed: Any = repository.evaluations_of(commits, HANDED_ON)
    measured: Any = repository.evaluations_of(commits, "commit")
    found: dict[CommitId, dict[FactId, Came]] = {}
    for commit in commits:
        found[commit] = {}
        sides = {side: measured[commit][side].get("facts", {}) for side in ("before", "after") if commit in measured}
        for record in (handed.get(commit, {}), sides):
            before = record.get("before", {})
            found[commit] |= {FactId(fact): (before.get(fact), each) for fact, each in record.get("after", {}).items()}
    return found


def scores_at_commit(repository: Repository, commits: Collection[CommitId]) -> dict[CommitId, dict[FactId, Scores]]:
    """The scores of the facts that each commit added, right after it; {} if nothing was measured."""
    came = came_in(repository, commits)
    return {commit: {fact: after for fact, (_, after) in facts.items()} for commit, facts in came.items()}


def handed_on(repository: Repository, old: Sequence[CommitId], state: StateId, new: CommitId) -> list[Evaluation]:
    """Rows for one commit that replaces several, the oldest first: a fact keeps its scores of the last of them."""
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
    kept = repository.evaluations(state)
    return [(state, new, kind, new, kept[kind, old]) for kind in ("commit", HANDED_ON) if (kind, old) in kept]
