"""Certain conflicts between two sides that come together: found in the joint state, settled the way the user says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from memit_vc.errors import ConflictError
from memit_vc.objects import ColumnId, CommitId, Fact, FactId, JsonValue, short
from memit_vc.porcelain.conflicts import OnConflict
from memit_vc.vcs.conflicts import certain_conflicts

__all__ = ["Contradiction", "Described", "Joined", "join"]

_SHOWN = 20


class Described(Protocol):
    """Where the facts of columns are known: a repository, or one together with what is about to come in."""

    def column_facts(self, columns: Collection[ColumnId]) -> dict[ColumnId, list[tuple[FactId, str]]]: ...
    def facts(self, ids: Collection[FactId]) -> dict[FactId, Fact]: ...


@dataclass(frozen=True)
class Contradiction:
    """One question with two answers, one from each side, and the commits that brought them in."""

    ours: Fact
    theirs: Fact
    our_commit: CommitId
    their_commit: CommitId
    our_columns: frozenset[ColumnId]
    their_columns: frozenset[ColumnId]

    def line(self) -> str:
        return (
            f"  {self.ours.subject}: {self.ours.prompt!r} → ours {self.ours.target!r} (commit "
            f"{short(self.our_commit)}), theirs {self.theirs.target!r} (commit {short(self.their_commit)})"
        )

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "subject": self.ours.subject,
            "prompt": self.ours.prompt,
            "ours": {"target": self.ours.target, "fact": self.ours.id, "commit": self.our_commit},
            "theirs": {"target": self.theirs.target, "fact": self.theirs.id, "commit": self.their_commit},
        }


@dataclass(frozen=True)
class Joined:
    """A joint state in which the contradictions are settled. `twice` are facts that both sides edited in, apart."""

    state: frozenset[ColumnId]
    contradictions: tuple[Contradiction, ...]
    twice: tuple[Fact, ...]

    def notes(self) -> list[str]:
        """What the user should know of it, in plain sentences."""
        if not self.twice:
            return []
        named = ", ".join(dict.fromkeys(fact.subject for fact in self.twice[:5]))
        more = ", …" if len(self.twice) > 5 else ""
        return [
            f"{len(self.twice)} facts were edited in on both sides and now count twice ({named}{more}); "
            "`memitvc revert` one of them, or use --resolve"
        ]


def join(
    repository: Described,
    state: Collection[ColumnId],
    ours: Mapping[ColumnId, CommitId],
    theirs: Mapping[ColumnId, CommitId],
    on_conflict: OnConflict,
    *,
    what: str,
) -> Joined:
    """`state` with contradictions between the sides settled; each side maps its columns to the commits they came from.

    Contradictions that one side holds within itself were settled when they came about. ConflictError lists the others,
    or names a dense patch that would have to be split.
    """
    edits = _live_edits(repository, state)
    facts = repository.facts(list(edits))
    found = []
    for one, other in certain_conflicts([facts[fact] for fact in edits]):
        first, second = edits[one.id], edits[other.id]
        if any(first & side.keys() and second & side.keys() for side in (ours, theirs)):
            continue
        if not first & ours.keys():
            one, other, first, second = other, one, second, first
        found.append(Contradiction(one, other, _origin(first, ours), _origin(second, theirs), first, second))
    if found and on_conflict == "stop":
        raise _stop(found, what)
    dropped: frozenset[ColumnId] = frozenset()
    if on_conflict == "ours":
        dropped = frozenset().union(*(each.their_columns for each in found))
    elif on_conflict == "theirs":
        dropped = frozenset().union(*(each.our_columns for each in found))
    _refuse_to_split(repository, dropped)
    twice = [
        facts[fact]
        for fact, columns in edits.items()
        if (columns & ours.keys()) - theirs.keys() and (columns & theirs.keys()) - ours.keys()
    ]
    return Joined(frozenset(state) - dropped, tuple(found), tuple(twice))


def _live_edits(repository: Described, state: Collection[ColumnId]) -> dict[FactId, frozenset[ColumnId]]:
    """Live fact → its edit columns, in an order that depends on the state only."""
    pairs = repository.column_facts(sorted(state))
    cancelled = {fact for entries in pairs.values() for fact, role in entries if role == "cancel"}
    found: dict[FactId, set[ColumnId]] = {}
    for column, entries in pairs.items():
        for fact, role in entries:
            if role == "edit" and fact not in cancelled:
                found.setdefault(fact, set()).add(column)
    return {fact: frozenset(columns) for fact, columns in found.items()}


def _origin(columns: Collection[ColumnId], side: Mapping[ColumnId, CommitId]) -> CommitId:
    return next(side[column] for column in sorted(columns) if column in side)


def _refuse_to_split(repository: Described, dropped: Collection[ColumnId]) -> None:
    for column, pairs in repository.column_facts(dropped).items():
        if len(pairs) > 1:
            raise ConflictError(
                f"a fact to drop belongs to a patch of {len(pairs)} facts, which cannot be split",
                hint=f"Revert its whole commit first (column {short(column)}), or use --keep-both.",
            )


def _stop(found: Sequence[Contradiction], what: str) -> ConflictError:
    lines = [each.line() for each in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"  … and {len(found) - _SHOWN} more")
    count = "a contradiction" if len(found) == 1 else f"{len(found)} contradictions"
    return ConflictError(
        f"{what} would put {count} into the model:\n" + "\n".join(lines),
        hint="--ours keeps our side of them, --theirs theirs, --keep-both both. The repository is unchanged.",
    )
