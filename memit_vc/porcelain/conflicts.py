"""Facts that contradict each other: found before anything is computed, settled the way the user says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from memit_vc.errors import ConflictError, MemitVCError
from memit_vc.objects import ColumnId, CommitId, Fact, FactId, short

if TYPE_CHECKING:
    from memit_vc.repository import LiveFact, Repository

__all__ = ["OnConflict", "Settled", "settle"]

OnConflict: TypeAlias = Literal["stop", "ours", "theirs", "keep-both"]
"""ours keeps the live fact, theirs the new one, keep-both both."""

_SHOWN = 10


@dataclass(frozen=True)
class Settled:
    """The facts that remain to be edited in, and the columns of the state that they take the place of."""

    facts: tuple[Fact, ...]
    replaced: frozenset[ColumnId]
    notes: tuple[str, ...]


def settle(
    repository: Repository, facts: Sequence[Fact], on_conflict: OnConflict, *, at: CommitId | None = None
) -> Settled:
    """Leave out what is live already at a commit (None: HEAD); stop at contradictions unless told which side to keep.

    ConflictError (exit code 13) lists subject, prompt, both targets and the live fact's commit. MemitVCError where
    nothing is left to edit.
    """
    _refuse_contradictory_batch(facts)
    head = at or repository.head().commit
    live: dict[tuple[str, str], list[LiveFact]] = {}
    for entry in repository.live_facts(head):
        live.setdefault(entry.fact.question, []).append(entry)
    wanted: list[Fact] = []
    notes: list[str] = []
    clashes: list[tuple[Fact, LiveFact]] = []
    present = 0
    for fact in facts:
        same_question = live.get(fact.question, [])
        if any(entry.fact.target.strip() == fact.target.strip() for entry in same_question):
            present += 1
            continue
        against = [(fact, entry) for entry in same_question]
        clashes += against
        if not (against and on_conflict == "ours"):
            wanted.append(fact)
    if present:
        notes.append(f"{present} of {len(facts)} facts are live already and were left out")
    if clashes and on_conflict == "stop":
        raise ConflictError(
            f"{len(clashes)} of the facts contradict live ones:\n" + "\n".join(_listed(clashes)),
            hint="--theirs replaces the live facts, --ours leaves the new ones out, --keep-both keeps both.",
        )
    if not wanted:
        raise MemitVCError("nothing to commit: every fact is live already", hint="`memitvc facts` lists them.")
    replaced = _cancelling(repository, repository.state(head), {fact.id for fact in wanted})
    if on_conflict == "theirs":
        replaced |= _divisible_columns(repository, clashes)
    return Settled(tuple(wanted), replaced, tuple(notes))


def _divisible_columns(repository: Repository, clashes: Sequence[tuple[Fact, LiveFact]]) -> frozenset[ColumnId]:
    columns = frozenset(entry.column for _, entry in clashes)
    for column, facts in repository.column_facts(columns).items():
        if len(facts) > 1:
            raise ConflictError(
                f"a live fact to replace belongs to a patch of {len(facts)} facts, which cannot be split",
                hint=f"Revert its whole commit first (column {short(column)}), or commit with --keep-both.",
            )
    return columns


def _cancelling(repository: Repository, state: Collection[ColumnId], wanted: Collection[FactId]) -> frozenset[ColumnId]:
    """The columns that keep facts of the batch out, as a re-solved revert leaves them: whatever is added, a fact with
    one of them is not live. They leave the state, and the batch is computed on what that gives.
    """
    found = set()
    for column, pairs in repository.column_facts(state).items():
        if any(role == "cancel" and fact in wanted for fact, role in pairs):
            if len(pairs) > 1:
                raise ConflictError(
                    f"a fact of the batch was taken out by a patch of {len(pairs)} facts, which cannot be split",
                    hint=f"Revert the commit that did so (column {short(column)}), or run `memitvc squash --resolve`.",
                )
            found.add(column)
    return frozenset(found)


def _listed(clashes: Sequence[tuple[Fact, LiveFact]]) -> list[str]:
    lines = [_line(fact, entry.fact.target, entry.commit) for fact, entry in clashes[:_SHOWN]]
    if len(clashes) > _SHOWN:
        lines.append(f"  … and {len(clashes) - _SHOWN} more")
    return lines


def _line(fact: Fact, other: str, commit: CommitId) -> str:
    return f"  {fact.subject}: {fact.prompt!r} → live {other!r} (commit {short(commit)}), new {fact.target!r}"


def _refuse_contradictory_batch(facts: Sequence[Fact]) -> None:
    seen: dict[tuple[str, str], tuple[int, Fact]] = {}
    for number, fact in enumerate(facts, start=1):
        earlier = seen.setdefault(fact.question, (number, fact))
        if earlier[1].target.strip() != fact.target.strip():
            raise ConflictError(
                f"facts {earlier[0]} and {number} of the batch contradict each other: {fact.subject}: {fact.prompt!r} "
                f"→ {earlier[1].target!r} and {fact.target!r}",
                hint="Keep one of them.",
            )
