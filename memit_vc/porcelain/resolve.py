"""`--resolve`: revert, squash, merge and cherry-pick in closed form (design, section 3).

Where the default modes add and remove columns, these solve: what is left is what it would be, had the history been
another one. `revert` and `cherry-pick` add one column per fact to the state; `squash` and `merge` put one new patch
D(S) in the place of all columns, so that the result depends on the set of live facts only. All are commits on top of
HEAD: a plain revert of one takes it back to the bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from memit_vc.errors import MemitVCError, RevisionError
from memit_vc.objects import ColumnId, Commit, CommitId, FactId, JsonValue, PatchId, StateId, short
from memit_vc.porcelain.author import author_name, now
from memit_vc.porcelain.constraints import LiveConstraints, live_sources
from memit_vc.porcelain.move import head_update
from memit_vc.porcelain.solver import Solution, Solver, solver_for
from memit_vc.progress import Progress, silent
from memit_vc.repository import Head, NewPatch, Repository

if TYPE_CHECKING:
    from memit_vc.porcelain.models import LoadedModel

__all__ = [
    "Resolved",
    "chosen_constraints",
    "record",
    "refuse_cancelled",
    "resolve_revert",
    "resolve_squash",
    "solve_whole",
]


@dataclass(frozen=True)
class Resolved:
    """What a re-solve did to the state. `patch` is None where nothing is live any more."""

    id: CommitId
    branch: str | None
    patch: PatchId | None
    state: StateId
    taken_out: int
    put_in: int
    columns_removed: int
    snapping: float
    """Largest change, over the weights, that snapping made, as a share of the update."""
    dense: bool
    """The patch is one indivisible column: it leaves whole, or fact by fact with `--resolve`."""
    notes: tuple[str, ...]


def resolve_revert(
    repository: Repository,
    revisions: Sequence[str],
    *,
    fact: str | None = None,
    message: str | None = None,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Resolved:
    """Take the facts of `revisions` out as if they had never been in, and put back what those commits replaced.

    Facts count wherever they live now, so that it also works after a squash. With `fact` (an id, a prefix of one, or a
    subject) only that one. MemitVCError where nothing of it is live, EngineError where constraints are missing.
    """
    commits = list(dict.fromkeys(repository.resolve(revision) for revision in revisions))
    head = repository.head()
    state = repository.state(head.commit)
    live = {source.fact for source in live_sources(repository, state)}
    leaving: set[FactId] = set()
    returning: dict[FactId, ColumnId] = {}
    for target in commits:
        commit = repository.commit(target)
        if commit.kind == "root":
            raise MemitVCError(f"{short(target)} is the base itself", hint="`memitvc log` shows what can be reverted.")
        leaving |= {source.fact for source in live_sources(repository, commit.adds)} & live
        gone = [column for column in commit.removes if column not in state]
        returning |= {s.fact: s.column for s in live_sources(repository, gone) if s.fact not in live}
    if fact is not None:
        chosen = _named(repository, leaving | returning.keys(), fact)
        leaving &= chosen
        returning = {id_: column for id_, column in returning.items() if id_ in chosen}
    if not leaving and not returning:
        what = ", ".join(short(c) for c in commits) + (f": a fact {fact!r}" if fact is not None else "")
        raise RevisionError(
            f"nothing to take out: no fact of {what} is live",
            hint="`memitvc facts` lists what is live. A revert is taken back without --resolve, to the bit.",
        )
    refuse_cancelled(repository, state, returning)
    solver = solver_for(repository, {*state, *returning.values()}, loaded=loaded, progress=progress)
    sources = solver.constraints(state).sources
    out = [index for index, source in enumerate(sources) if source.fact in leaving]
    solution = solver.change(state, out=out, into=chosen_constraints(solver, returning))
    patch, blobs, snapping = solver.patch(solution, verb="revert", context=state, keep=state)
    subjects = [repository.commit(c).subject for c in commits]
    lines = [f'Revert "{subjects[0]}"' if len(commits) == 1 else f"Revert {len(commits)} commits"]
    lines += [f"Fact: {fact}"] if fact is not None else []
    lines += [f"This takes commit {c} out by re-solving the rest." for c in commits]
    details: dict[str, JsonValue] = {"reverts": list(commits), "resolve": True}
    return record(
        solver,
        head,
        solution,
        (patch, blobs, snapping),
        state=state,
        removes=(),
        kind="revert",
        message=message or "\n\n".join(lines),
        details={**details, **({"fact": fact} if fact is not None else {})},
    )


def resolve_squash(
    repository: Repository,
    *,
    message: str | None = None,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Resolved:
    """One patch D(S) for all live facts in the place of every column of HEAD's state.

    It repairs histories that were computed without history, or reverted much: what comes out does not depend on how
    the state came about. Cancelled facts leave the state for good.
    """
    head = repository.head()
    state = repository.state(head.commit)
    if not state:
        raise MemitVCError("nothing to squash: HEAD is the base itself", hint="`memitvc facts` lists what is live.")
    chosen = {entry.fact.id: entry.column for entry in repository.live_facts(head.commit)}
    made = solve_whole(repository, state, chosen, verb="squash", loaded=loaded, progress=progress)
    text = message or f"Solve {len(chosen)} live facts afresh"
    details: dict[str, JsonValue] = {"resolve": True, "facts": len(chosen)}
    return record(*made.arguments(head), state=state, removes=state, kind="squash", message=text, details=details)


@dataclass(frozen=True)
class Whole:
    """A state solved at once. No patch where nothing of it is live."""

    solver: Solver
    solution: Solution
    packed: tuple[NewPatch, tuple[bytes, ...], float] | None

    def arguments(self, head: Head) -> tuple[Solver, Head, Solution, tuple[NewPatch, tuple[bytes, ...], float] | None]:
        """The first arguments of `record`."""
        return self.solver, head, self.solution, self.packed


def solve_whole(
    repository: Repository,
    state: Collection[ColumnId],
    chosen: Mapping[FactId, ColumnId],
    *,
    verb: str,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Whole:
    """D of the live facts of `state`. `chosen` says which column stands for each fact: the set has each fact once."""
    solver = solver_for(repository, state, loaded=loaded, progress=progress)
    constraints = solver.constraints(state)
    once = [i for i, source in enumerate(constraints.sources) if chosen.get(source.fact) == source.column]
    if not once:
        return Whole(solver, Solution({}, (), LiveConstraints((), {}, {})), None)
    solution = solver.whole(constraints.select(once))
    return Whole(solver, solution, solver.patch(solution, verb=verb, context=state, keep=()))


def chosen_constraints(solver: Solver, wanted: Mapping[FactId, ColumnId]) -> LiveConstraints:
    """The constraints of some facts, each by the column that is to stand for it."""
    if not wanted:
        return LiveConstraints((), {}, {})
    found = solver.constraints(set(wanted.values()))
    return found.select([i for i, s in enumerate(found.sources) if wanted.get(s.fact) == s.column])


def refuse_cancelled(repository: Repository, state: Collection[ColumnId], wanted: Collection[FactId]) -> None:
    """MemitVCError for a fact whose cancel column is live: another edit column of it would count for nothing."""
    for column, pairs in repository.column_facts(state).items():
        for fact, role in pairs:
            if role == "cancel" and fact in wanted:
                name = repository.fact(fact).subject
                raise MemitVCError(
                    f"{name!r} was taken out with `revert --resolve` (column {short(column)}), which still stands",
                    hint="Revert that commit to bring the fact back, or clear the way with `memitvc squash --resolve`.",
                )


def record(
    solver: Solver,
    head: Head,
    solution: Solution,
    packed: tuple[NewPatch, tuple[bytes, ...], float] | None,
    *,
    state: Collection[ColumnId],
    removes: Collection[ColumnId],
    kind: Literal["revert", "squash", "merge", "cherry-pick"],
    message: str,
    details: Mapping[str, JsonValue],
    parents: Sequence[CommitId] = (),
) -> Resolved:
    """Store the blobs, then the commit on HEAD. RefMovedError where the branch moved while it was solved."""
    repository = solver.loaded.repository
    patch, blobs, snapping = packed if packed is not None else (None, (), 0.0)
    adds = () if patch is None else patch.columns
    gone = set(removes) - set(adds)
    made = Commit(
        base=repository.base_id,
        parents=(head.commit, *parents),
        adds=tuple(sorted(set(adds) - set(state))),
        removes=tuple(sorted(gone)),
        patches=() if patch is None else (patch.id,),
        kind=kind,
        message=message,
        author=author_name(repository),
        time=now(),
        provenance=None if patch is None else patch.header.provenance,
        details=details,
    )
    for blob in blobs:
        repository.blobs.put(blob)
    repository.publish(
        verb=kind,
        description=made.subject,
        commits=[made],
        patches=[] if patch is None else [patch],
        **head_update(head, made.id),
    )
    return Resolved(
        id=made.id,
        branch=head.branch,
        patch=None if patch is None else patch.id,
        state=repository.state_id((set(state) - gone) | set(adds)),
        taken_out=sum(column.role == "cancel" for column in solution.columns),
        put_in=sum(column.role == "edit" for column in solution.columns),
        columns_removed=len(gone),
        snapping=snapping,
        dense=patch is not None and not patch.header.divisible,
        notes=solver.notes,
    )


def _named(repository: Repository, facts: Collection[FactId], wanted: str) -> set[FactId]:
    found = repository.facts(facts) if facts else {}
    return {id_ for id_, fact in found.items() if id_.startswith(wanted) or fact.subject.strip() == wanted.strip()}
