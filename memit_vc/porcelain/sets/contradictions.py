"""A batch against what is live: contradictions are found before anything is computed, and settled as the user says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from memit_vc.errors import ConflictError, MemitVCError
from memit_vc.objects import Fact, FactId, JsonValue, short
from memit_vc.porcelain.state import LiveState
from memit_vc.vcs.contradictions import OnConflict, contradicting
from memit_vc.vcs.facts import LiveFact
from memit_vc.vcs.state import State

_SHOWN = 10


@dataclass(frozen=True)
class Settled:
    """The facts that are left to edit in, and the columns of the state that they replace."""

    facts: tuple[Fact, ...]
    replaced: State
    notes: tuple[str, ...]


def settle(
    state: LiveState,
    facts: Sequence[Fact],
    on_conflict: OnConflict,
    *,
    origins: Sequence[str] = (),
    amend: bool = False,
) -> Settled:
    """Leave out facts that are live already in the state of a commit; settle contradictions as `on_conflict` says.

    `origins` say where each fact is in the user's file; with `amend`, the state is that before HEAD. ConflictError
    (exit code 13), for "stop", lists subject, prompt, both targets and the live fact's commit. MemitVCError if nothing
    is left to edit.
    """
    if on_conflict != "keep-both":
        _refuse_contradictory_batch(facts, origins)
    live = {entry.fact.id: entry for entry in state.live}
    claims = {entry.fact.claim for entry in state.live}
    new = [fact for fact in facts if fact.claim not in claims]
    notes = []
    if len(new) < len(facts):
        notes.append(f"{len(facts) - len(new)} of {len(facts)} facts are live already and were left out")
    notes += _respelt(facts, state)
    clashes = [(fact, live[old.id]) for old, fact in contradicting(new, [entry.fact for entry in state.live])]
    if clashes and on_conflict == "stop":
        one = len(clashes) == 1
        said = "one of the facts contradicts a live one" if one else f"{len(clashes)} of the facts contradict live ones"
        raise ConflictError(
            f"{said}:\n{_listed(clashes)}",
            hint="Choose: --theirs replaces the live facts, --ours leaves the new ones out, --keep-both keeps both.",
            conflicts=[_record(fact, entry) for fact, entry in clashes],
        )
    clashing = {fact.id for fact, _ in clashes} if on_conflict == "ours" else set()
    wanted = [fact for fact in new if fact.id not in clashing]
    if not wanted and clashes:
        raise MemitVCError(
            f"nothing to commit: the new facts contradict live facts, and --ours keeps those:\n{_listed(clashes)}",
            hint="Choose: --theirs replaces the live facts, --keep-both keeps both.",
        )
    if not wanted:
        where = " before HEAD" if amend else ""
        raise MemitVCError(
            "; ".join([f"nothing to commit: every fact is live already{where}", *_respelt(facts, state)]),
            hint="Take HEAD back instead: memitvc undo, or memitvc revert HEAD."
            if amend
            else "Look at `memitvc facts`, which lists them.",
        )
    replaced = cancelled_columns(state, {fact.id for fact in wanted})
    if on_conflict == "theirs":
        replaced |= _whole_columns(
            state,
            {entry.fact.id for _, entry in clashes},
            "a live fact to replace belongs to",
            "Revert its whole commit first (column {}), or commit with --keep-both.",
        )
    return Settled(tuple(wanted), replaced, tuple(notes))


def _respelt(facts: Sequence[Fact], state: LiveState) -> list[str]:
    """Of facts that are live already: those that only look like the live one, which the model reads otherwise."""
    spelt: dict[object, set[tuple[str, str, str]]] = {}
    for entry in state.live:
        spelt.setdefault(entry.fact.claim, set()).add(_spelling(entry.fact))
    found = [fact for fact in facts if _spelling(fact) not in spelt.get(fact.claim, {_spelling(fact)})]
    named = ", ".join(dict.fromkeys(fact.subject for fact in found[:_SHOWN]))
    return (
        [f"live in other characters that look the same: {named}; to store this spelling, revert that fact first"]
        if found
        else []
    )


def _asks(fact: Fact) -> tuple[str, str]:
    return _spelling(fact)[:2]


def _spelling(fact: Fact) -> tuple[str, str, str]:
    return fact.subject.strip(), fact.prompt.strip(), fact.target.strip()


def cancelled_columns(state: LiveState, wanted: Collection[FactId]) -> State:
    """Every column of those facts that `--resolve` took out: while a cancel column is live, its fact is not.

    The edit columns leave with the columns that cancel them; the batch is computed on the state without both.
    """
    return _whole_columns(
        state,
        state.cancelled & set(wanted),
        "a fact of the batch was taken out by",
        "Revert the commit that did so (column {}), or run `memitvc squash --resolve`.",
    )


def _whole_columns(state: LiveState, facts: Collection[FactId], what: str, hint: str) -> State:
    """All columns of some facts: a fact may be live in several, which were computed apart.

    ConflictError, which begins with `what`, if other facts share a column.
    """
    found = {column: pairs for column, pairs in state.roles.items() if any(fact in facts for fact, _ in pairs)}
    for column, pairs in found.items():
        owners = len({fact for fact, _ in pairs})
        if owners > 1:
            raise ConflictError(
                f"{what} a patch of {owners} facts, which cannot be split", hint=hint.format(short(column))
            )
    return frozenset(found)


def _listed(clashes: Sequence[tuple[Fact, LiveFact]]) -> str:
    lines = [
        f"  {fact.subject}: {fact.prompt!r} → live {entry.fact.target!r} (commit {short(entry.commit)}), "
        f"new {fact.target!r}{'' if _asks(fact) == _asks(entry.fact) else ' (other characters that look the same)'}"
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
