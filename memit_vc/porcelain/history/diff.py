"""`diff`: which facts two revisions differ in. No model and no patch is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from memit_vc.objects import CommitId, JsonValue
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from memit_vc.vcs.facts import LiveFact
from memit_vc.vcs.revisions import split_range

_Answer: TypeAlias = tuple[tuple[str, str], str]


@dataclass(frozen=True)
class Changed:
    """One question at both revisions."""

    before: LiveFact
    after: LiveFact

    def to_json(self) -> dict[str, JsonValue]:
        return {"before": _record(self.before), "after": _record(self.after)}


@dataclass(frozen=True)
class FactsDiff:
    """`changed` facts have another target at `newer`; `recomputed` ones the same target in another column."""

    older: CommitId
    newer: CommitId
    added: tuple[LiveFact, ...]
    removed: tuple[LiveFact, ...]
    changed: tuple[Changed, ...]
    recomputed: tuple[Changed, ...]
    same_state: bool

    @property
    def sentence(self) -> str:
        """ "+12 facts, −1, 2 changed"."""
        if self.same_state:
            return "the same facts, the same weights"
        new, gone = ("fact" if len(side) == 1 else "facts" for side in (self.added, self.removed))
        parts = {
            f"+{len(self.added)} {new}": self.added,
            f"−{len(self.removed)}" + ("" if self.added else f" {gone}"): self.removed,
            f"{len(self.changed)} changed": self.changed,
            f"{len(self.recomputed)} edited again": self.recomputed,
        }
        return ", ".join(text for text, pairs in parts.items() if pairs) or "the same facts, other weights"

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "from": self.older,
            "to": self.newer,
            "same_state": self.same_state,
            "summary": self.sentence,
            "added": [_record(entry) for entry in self.added],
            "removed": [_record(entry) for entry in self.removed],
            "changed": [pair.to_json() for pair in self.changed],
            "recomputed": [pair.to_json() for pair in self.recomputed],
        }


def ends(repository: Repository, older: str | None = None, newer: str | None = None) -> tuple[CommitId, CommitId]:
    """The commits that `diff [A [B]]` compares: HEAD~1 and HEAD by default, A and HEAD for A alone; A may be "A..B"."""
    if older is not None and newer is None:
        older, newer = split_range(older) or (older, "HEAD")
    if older is None:
        head = repository.head().commit
        parents = repository.parents(head)
        return (parents[0] if parents else head), head
    return repository.resolve(older), repository.resolve(newer or "HEAD")


def diff(repository: Repository, older: CommitId, newer: CommitId) -> FactsDiff:
    """Compare facts by subject, prompt and target. Of facts that differ only in their probes, those with the same id
    are paired first.
    """
    old_state, new_state = (LiveState.at(repository, commit) for commit in (older, newer))
    before, after = _answers(old_state.live), _answers(new_state.live)
    added, removed, changed, again = [], [], [], []
    for key in dict.fromkeys([*before, *after]):
        pairs, gone, new = _paired(before.get(key, []), after.get(key, []))
        again += [Changed(old, entry) for old, entry in pairs if old.column != entry.column]
        removed += gone
        added += new
    answered: dict[tuple[str, str], list[LiveFact]] = {}
    for known in removed:
        answered.setdefault(known.fact.question, []).append(known)
    new_ones, gone_now = [], set[int]()
    for entry in added:
        olds = answered.get(entry.fact.question)
        if olds:
            old = olds.pop(0)
            changed.append(Changed(old, entry))
            gone_now.add(id(old))
        else:
            new_ones.append(entry)
    added, removed = new_ones, [entry for entry in removed if id(entry) not in gone_now]
    return FactsDiff(
        older, newer, tuple(added), tuple(removed), tuple(changed), tuple(again), old_state.columns == new_state.columns
    )


def _answers(live: Sequence[LiveFact]) -> dict[_Answer, list[LiveFact]]:
    found: dict[_Answer, list[LiveFact]] = {}
    for entry in live:
        found.setdefault(entry.fact.claim, []).append(entry)
    return found


def _paired(
    old: Sequence[LiveFact], new: Sequence[LiveFact]
) -> tuple[list[tuple[LiveFact, LiveFact]], list[LiveFact], list[LiveFact]]:
    """One answer at both revisions: pairs, and the facts left over on either side."""
    by_id = {entry.fact.id: entry for entry in old}
    pairs = [(by_id.pop(entry.fact.id), entry) for entry in new if entry.fact.id in by_id]
    paired = {entry.fact.id for _, entry in pairs}
    gone, come = list(by_id.values()), [entry for entry in new if entry.fact.id not in paired]
    more = list(zip(gone, come, strict=False))
    return [*pairs, *more], gone[len(more) :], come[len(more) :]


def _record(entry: LiveFact) -> dict[str, JsonValue]:
    return {**entry.fact.to_json(), "id": entry.fact.id, "commit": entry.commit}
