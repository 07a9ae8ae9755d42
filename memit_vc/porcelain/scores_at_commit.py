"""What each fact scored when it came in: measured by `commit`, handed on by commits that stand in its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from memit_vc.objects import CommitId, FactId, JsonValue, StateId

if TYPE_CHECKING:
    from memit_vc.repository import Repository

__all__ = ["Scores", "handed_on", "scores_at_commit", "scores_of"]

Scores: TypeAlias = Mapping[str, float | None]
"""ES, PS, NS, rewrite_acc, …, nll of one fact (`numerics.scores`)."""

_HANDED_ON = "brought"

_Row: TypeAlias = "tuple[StateId, CommitId | None, str, str, JsonValue]"


def scores_at_commit(repository: Repository, commit: CommitId) -> dict[FactId, Scores]:
    """Of the facts that a commit brought in, right after it; {} where nothing was measured."""
    state = repository.state_id(repository.state(commit))
    found: dict[FactId, Scores] = {}
    handed = repository.evaluations(state, _HANDED_ON).get((_HANDED_ON, commit))
    if isinstance(handed, Mapping):
        found.update(handed)  # type: ignore[arg-type]  # as `handed_on` wrote it
    measured = repository.evaluations(state, "commit").get(("commit", commit))
    if isinstance(measured, Mapping) and isinstance(measured["after"], Mapping):
        found.update(measured["after"]["facts"])  # type: ignore[arg-type]  # as `Measured` wrote it
    return found


def handed_on(repository: Repository, old: Iterable[CommitId], state: StateId, new: CommitId) -> list[_Row]:
    """Rows for one commit in the place of several, the oldest first: a fact keeps its scores of the last of them."""
    found: dict[FactId, Scores] = {}
    for commit in old:
        found.update(scores_at_commit(repository, commit))
    if not found:
        return []
    return [(state, new, _HANDED_ON, new, {fact: dict(scores) for fact, scores in found.items()})]


def scores_of(repository: Repository, old: CommitId, new: CommitId) -> list[_Row]:
    """Rows for the same commit under a new id: its state is the same."""
    state = repository.state_id(repository.state(old))
    return [
        (state, new, kind, new, repository.evaluations(state, kind)[kind, old])
        for kind in ("commit", _HANDED_ON)
        if (kind, old) in repository.evaluations(state, kind)
    ]
