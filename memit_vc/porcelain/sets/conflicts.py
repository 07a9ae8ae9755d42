"""Facts that contradict each other: found before anything is computed, settled the way the user says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from memit_vc.errors import ConflictError, MemitVCError
from memit_vc.objects import ColumnId, CommitId, Fact, FactId, JsonValue, short

if TYPE_CHECKING:
    from memit_vc.repository import LiveFact, Repository

__all__ = ["OnConflict", "Settled", "cancelled_columns", "settle"]

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
    repository: Repository,
    facts: Sequence[Fact],
    on_conflict: OnConflict,
    *,
    at: CommitId | None = None,
    origins: Sequence[str] = (),
) -> Settled:
    """Leave out what is live already at a commit (None: HEAD); stop at contradictions unless told which side to keep.

    `origins` say where each fact stands in the user's file. ConflictError (exit code 13) lists subject, prompt, both
    targets and the live fact's commit. MemitVCError where nothing is left to edit.
    """
    if on_conflict != "keep-both":
        _refuse_contradictory_batch(facts, origins)
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
        count = f"{len(clashes)} of the facts contradict live ones"
        said = "one of the facts contradicts a live one" if len(clashes) == 1 else count
        raise ConflictError(
            f"{said}:\n" + "\n".join(_listed(clashes)),
            hint="--theirs replaces the live facts, --ours leaves the new ones out, --keep-both keeps both.",
            conflicts=[_record(fact, entry) for fact, entry in clashes],
        )
    if not wanted and clashes:
        raise MemitVCError(
            "nothing to commit: what is new contradicts live facts, and --ours keeps those:\n"
            + "\n".join(_listed(clashes)),
            hint="--theirs replaces the live facts, --keep-both keeps both.",
        )
    if not wanted:
        raise MemitVCError("nothing to commit: every fact is live already", hint="`memitvc facts` lists them.")
    state = repository.state(head)
    replaced = cancelled_columns(repository, state, {fact.id for fact in wanted})
    if on_conflict == "theirs":
        replaced |= _live_columns(repository, state, {entry.fact.id for _, entry in clashes})
    return Settled(tuple(wanted), replaced, tuple(notes))


def cancelled_columns(
    repository: Repository, state: Collection[ColumnId], wanted: Collection[FactId]
) -> frozenset[ColumnId]:
    """Every column of those facts that `--resolve` took out: whatever is added, a cancelled fact is not live.

    The edit columns leave with those that cancel them, and the batch is computed on what that gives.
    """
    pairs = repository.column_facts(state)
    cancelled = {fact for entries in pairs.values() for fact, role in entries if role == "cancel" and fact in wanted}
    found = {column for column, entries in pairs.items() if any(fact in cancelled for fact, _ in entries)}
    for column in found:
        if len({fact for fact, _ in pairs[column]}) > 1:
            raise ConflictError(
                f"a fact of the batch was taken out by a patch of {len(pairs[column])} facts, which cannot be split",
                hint=f"Revert the commit that did so (column {short(column)}), or run `memitvc squash --resolve`.",
            )
    return frozenset(found)


def _live_columns(
    repository: Repository, state: Collection[ColumnId], clashing: Collection[FactId]
) -> frozenset[ColumnId]:
    """All columns of the live facts to replace: a fact may be live in several, which were computed apart."""
    found = set()
    for column, entries in repository.column_facts(state).items():
        if any(fact in clashing for fact, _ in entries):
            if len(entries) > 1:
                raise ConflictError(
                    f"a live fact to replace belongs to a patch of {len(entries)} facts, which cannot be split",
                    hint=f"Revert its whole commit first (column {short(column)}), or commit with --keep-both.",
                )
            found.add(column)
    return frozenset(found)


def _listed(clashes: Sequence[tuple[Fact, LiveFact]]) -> list[str]:
    lines = [_line(fact, entry.fact.target, entry.commit) for fact, entry in clashes[:_SHOWN]]
    if len(clashes) > _SHOWN:
        lines.append(f"  … and {len(clashes) - _SHOWN} more")
    return lines


def _record(fact: Fact, entry: LiveFact) -> dict[str, JsonValue]:
    return {
        "subject": fact.subject,
        "prompt": fact.prompt,
        "ours": {"target": entry.fact.target, "fact": entry.fact.id, "commit": entry.commit},
        "theirs": {"target": fact.target, "fact": fact.id},
    }


def _line(fact: Fact, other: str, commit: CommitId) -> str:
    return f"  {fact.subject}: {fact.prompt!r} → live {other!r} (commit {short(commit)}), new {fact.target!r}"


def _refuse_contradictory_batch(facts: Sequence[Fact], origins: Sequence[str] = ()) -> None:
    seen: dict[tuple[str, str], tuple[int, Fact]] = {}
    for number, fact in enumerate(facts, start=1):
        earlier = seen.setdefault(fact.question, (number, fact))
        if earlier[1].target.strip() != fact.target.strip():
            which = f"facts {earlier[0]} and {number} of the batch"
            if origins:
                which = f"{origins[earlier[0] - 1]} and {origins[number - 1].rpartition(': ')[2]}"
            raise ConflictError(
                f"{which} contradict each other: {fact.subject}: {fact.prompt!r} "
                f"→ {earlier[1].target!r} and {fact.target!r}",
                hint="Keep one of them, or both with --keep-both.",
            )
