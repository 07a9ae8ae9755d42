"""`show`: one commit with its facts, their scores and its provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memit_vc.errors import MemitVCError
from memit_vc.objects import ColumnId, Fact, JsonValue, StateId
from memit_vc.porcelain.history.adapters import Adapter, live_adapters
from memit_vc.porcelain.history.log import LogEntry, entry_of
from memit_vc.porcelain.history.scores_at_commit import came_in
from memit_vc.porcelain.state import LiveState

if TYPE_CHECKING:
    from memit_vc.repository import Repository


@dataclass(frozen=True)
class ShownFact:
    """A fact of a commit with its scores before and after, if they were measured."""

    fact: Fact
    role: str
    before: Mapping[str, float | None] | None
    after: Mapping[str, float | None] | None
    why: Mapping[str, Any] | None = None
    """How the edit took: leverage and agreement by layer, what is left of z − h, the search's last loss."""

    def to_json(self) -> dict[str, JsonValue]:
        about: dict[str, JsonValue] = {**self.fact.to_json(), "id": self.fact.id, "role": self.role}
        return {**about, "before": self.before, "after": self.after, "why": self.why}


@dataclass(frozen=True)
class ShownCommit:
    """Everything that `show` says of a commit. `removed` are the facts that it took out."""

    entry: LogEntry
    state: StateId
    added: tuple[ShownFact, ...]
    removed: tuple[Fact, ...]
    scores: Mapping[str, Any] | None
    provenance: Mapping[str, Any] | None
    live: bool
    """Its columns are all in HEAD's state."""
    adapters: tuple[Adapter, ...] = ()
    """Those that it brought in."""

    def to_json(self) -> dict[str, JsonValue]:
        return {
            **self.entry.to_json(),
            "state": self.state,
            "live": self.live,
            "facts": [each.to_json() for each in self.added],
            "removed": [{**fact.to_json(), "id": fact.id} for fact in self.removed],
            "adapters": [vars(adapter) for adapter in self.adapters],
            "scores": self.scores,
            "details": self.entry.commit.details,
            "provenance": self.provenance,
        }


def show(repository: Repository, revision: str = "HEAD") -> ShownCommit:
    """One commit with its facts, their scores and its provenance."""
    commit = repository.commit(repository.resolve(revision))
    state = LiveState.at(repository, commit.id)
    scores: Any = repository.evaluations(state.id, "commit").get(("commit", commit.id))
    provenance = None
    if commit.provenance is not None and repository.blobs.has(commit.provenance):
        with suppress(ValueError, MemitVCError):  # damaged: fsck says so, and the rest can be shown
            provenance = json.loads(repository.blobs.read(commit.provenance))
    why = (scores or {}).get("why", {})
    came = came_in(repository, [commit.id])[commit.id]
    return ShownCommit(
        entry=entry_of(repository, commit),
        state=state.id,
        added=tuple(
            ShownFact(fact, role, before, after, why.get(fact.id))
            for fact, role in _facts_of(repository, commit.adds)
            for before, after in [came.get(fact.id, (None, None))]
        ),
        removed=tuple(fact for fact, role in _facts_of(repository, commit.removes) if role == "edit"),
        scores=scores
        and {
            side: {name: value for name, value in scores[side].items() if name != "facts"}
            for side in ("before", "after")
        },
        provenance=provenance,
        live=set(commit.adds) <= LiveState.of_head(repository).columns,
        adapters=tuple(live_adapters(LiveState(repository, commit.adds))),
    )


def _facts_of(repository: Repository, columns: Sequence[ColumnId]) -> list[tuple[Fact, str]]:
    """Facts of some columns in the order of their patches."""
    found: list[tuple[Fact, str]] = []
    state = LiveState(repository, columns)
    for patch, positions in state.selection.items():
        described = state.patches[patch].header.columns
        found += [(state.facts[described[p].fact], described[p].role) for p in positions or range(len(described))]
    return found
