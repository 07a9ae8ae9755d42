"""A batch against what is live: contradictions are found before anything is computed, and settled as the user says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memit_vc.errors import ConflictError, MemitVCError
from memit_vc.objects import Fact, FactId, JsonValue, short
from memit_vc.vcs.contradictions import OnConflict, contradicting

if TYPE_CHECKING:
    from memit_vc.porcelain.state import LiveState
    from memit_vc.vcs.facts import LiveFact
    from memit_vc.vcs.state import State


_SHOWN = 10


@dataclass(frozen=True)
class Settled:
    """The facts that remain to be edited in, and the columns of the state that they take the place of."""

    facts: tuple[Fact, ...]
    replaced: State
    notes: tuple[str, ...]


def settle(state: LiveState, facts: Sequence[Fact], on_conflict: OnConflict, *, origins: Sequence[str] = ()) -> Settled:
    """Leave out what is live already in the state of a commit; stop at contradictions unless told which side to keep.

    `origins` say where each fact stands in the user's file. ConflictError (exit code 13) lists subject, prompt, both
    targets and the live fact's commit. MemitVCError where nothing is left to edit.
    """
    if on_conflict != "keep-both":
        _refuse_contradictory_batch(facts, origins)
    live = {entry.fact.id: entry for entry in state.live}
    claims = {entry.fact.claim for entry in state.live}
    new = [fact for fact in facts if fact.claim not in claims]
    notes = []
    if len(new) < len(facts):
        notes.append(f"{len(facts) - len(new)} of {len(facts)} facts are live already and were left out")
    clashes = [(fact, live[old.id]) for old, fact in contradicting(new, [entry.fact for entry in state.live])]
    if clashes and on_conflict == "stop":
        said = "one of the facts contradicts a live one"
        if len(clashes) > 1:
            said = f"{len(clashes)} of the facts contradict live ones"
        raise ConflictError(
            f"{said}:\n{_listed(clashes)}",
            hint="--theirs replaces the live facts, --ours leaves the new ones out, --keep-both keeps both.",
            conflicts=[_record(fact, entry) for fact, entry in clashes],
        )
    clashing = {fact.id for fact, _ in clashes} if on_conflict == "ours" else set()
    wanted = [fact for fact in new if fact.id not in clashing]
    if not wanted and clashes:
        raise MemitVCError(
            f"nothing to commit: what is new contradicts live facts, and --ours keeps those:\n{_listed(clashes)}",
            hint="--theirs replaces the live facts, --keep-both keeps both.",
        )
    if not wanted:
        raise MemitVCError("nothing to commit: every fact is live already", hint="`memitvc facts` lists them.")
    replaced = cancelled_columns(state, {fact.id for fact in wanted})
    if on_conflict == "theirs":
        replaced |= _live_columns(state, {entry.fact.id for _, entry in clashes})
    return Settled(tuple(wanted), replaced, tuple(notes))


def cancelled_columns(state: LiveState, wanted: Collection[FactId]) -> State:
    """Every column of those facts that `--resolve` took out: whatever is added, a cancelled fact is not live.

    The edit columns leave with those that cancel them, and the batch is computed on what that gives.
    """
    cancelled = state.cancelled & set(wanted)
    found = {column for column, pairs in state.roles.items() if any(fact in cancelled for fact, _ in pairs)}
    for column in found:
        if len({fact for fact, _ in state.roles[column]}) > 1:
            raise ConflictError(
                f"a fact of the batch was taken out by a patch of {len(state.roles[column])} facts, which cannot be "
                "split",
                hint=f"Revert the commit that did so (column {short(column)}), or run `memitvc squash --resolve`.",
            )
    return frozenset(found)


def _live_columns(state: LiveState, clashing: Collection[FactId]) -> State:
    """All columns of the live facts to replace: a fact may be live in several, which were computed apart."""
    found = set()
    for column, pairs in state.roles.items():
        if any(fact in clashing for fact, _ in pairs):
            if len(pairs) > 1:
                raise ConflictError(
                    f"a live fact to replace belongs to a patch of {len(pairs)} facts, which cannot be split",
                    hint=f"Revert its whole commit first (column {short(column)}), or commit with --keep-both.",
                )
            found.add(column)
    return frozenset(found)


def _listed(clashes: Sequence[tuple[Fact, LiveFact]]) -> str:
    lines = [
        f"  {fact.subject}: {fact.prompt!r} → live {entry.fact.target!r} (commit {short(entry.commit)}), "
        f"new {fact.target!r}"
        for fact, entry in clashes[:_SHOWN]
    ]
    if len(clashes) > _SHOWN:
        lines.append(f"  … and {len(clashes) - _SHOWN} more")
    return "\n".join(lines)


def _record(fact: Fact, entry: LiveFact) -> dict[str, JsonValue]:
    return {
        "subject": fact.subject,
        "prompt": fact.prompt,
        "ours": {"target": entry.fact.target, "fact": entry.fact.id, "commit": entry.commit},
        "theirs": {"target": fact.target, "fact": fact.id},
    }


def _refuse_contradictory_batch(facts: Sequence[Fact], origins: Sequence[str]) -> None:
    for old, new in contradicting(facts)[:1]:
        places = [next(n for n, fact in enumerate(facts) if fact is each) for each in (old, new)]
        which = f"facts {places[0] + 1} and {places[1] + 1} of the batch"
        if origins:
            which = f"{origins[places[0]]} and {origins[places[1]].rpartition(': ')[2]}"
        raise ConflictError(
            f"{which} contradict each other: {new.subject}: {new.prompt!r} → {old.target!r} and {new.target!r}",
            hint="Keep one of them, or both with --keep-both.",
        )
