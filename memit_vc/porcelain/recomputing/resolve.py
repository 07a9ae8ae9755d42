"""`--resolve`: revert, squash, merge and cherry-pick in closed form.

The default modes add and remove columns; these solve, so that the remaining facts are as if the history had been
another one. `revert` and `cherry-pick` add one column per fact to the state; `squash` and `merge` replace all columns
by one new patch D(S), so that the result depends on the set of live facts only. All are commits on top of HEAD: a plain
revert of one restores every bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memit_vc.errors import MemitVCError, RevisionError
from memit_vc.objects import ColumnId, Commit, CommitId, FactId, Head, JsonValue, Patch, PatchId, short
from memit_vc.porcelain.editing.constraints import LiveConstraints
from memit_vc.porcelain.editing.models import LoadedModel
from memit_vc.porcelain.editing.solver import Solution, Solver, solver_for
from memit_vc.porcelain.record import Kind, Outcome, draft, record
from memit_vc.porcelain.sets.named_fact import named_facts
from memit_vc.porcelain.sets.revert import revert_message, reverted_commits
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, count, silent
from memit_vc.repository import Repository
from memit_vc.vcs.contradictions import Contradiction, OnConflict, conflict_details, losers, pairs_apart
from memit_vc.vcs.inverse import inverse_facts
from memit_vc.vcs.state import Change, State

if TYPE_CHECKING:
    from torch import Tensor

    from memit_vc.numerics.exact.factored import Term


@dataclass(frozen=True, kw_only=True)
class Resolved(Outcome):
    """What a re-solve did to the state. `patch` is None if nothing is live any more."""

    patch: PatchId | None
    taken_out: int
    put_in: int
    columns_removed: int
    snapping: float
    """Largest change, over the weights, that snapping made, as a share of the update."""
    dense: bool
    """The patch is one indivisible column: it leaves whole, or fact by fact with `--resolve`."""


@dataclass(frozen=True)
class Solved:
    """A solution with its patch, ready to be recorded. No patch if nothing is live."""

    solver: Solver
    solution: Solution
    patch: Patch | None = None
    blobs: tuple[bytes, ...] = ()
    snapping: float = 0.0
    terms: Mapping[str, Term] = field(default_factory=dict)
    """The patch's, by the name of their weight."""

    @classmethod
    def of(cls, solver: Solver, solution: Solution, *, verb: str, context: LiveState, keep: LiveState) -> Solved:
        """The solution snapped and packed; arguments as for `Solver.patch`."""
        return cls(solver, solution, *solver.patch(solution, verb=verb, context=context, keep=keep))

    def weights(self) -> dict[int, Tensor]:
        """The base's weights with this patch alone, as the model holds them."""
        loaded = self.solver.loaded
        return {
            layer: loaded.with_terms(layer, lambda weight: [t for t in [self.terms.get(weight.name)] if t is not None])
            for layer in self.solution.updates
        }


def resolve_revert(
    repository: Repository,
    revisions: Sequence[str],
    *,
    fact: str | None = None,
    on_conflict: OnConflict = "stop",
    message: str | None = None,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Resolved:
    """Take out the facts that `revisions` (A..B stands for its commits) brought in, as if they had never been in, and
    put back the facts that those commits had taken out, the newest commit first.

    Facts count in whichever columns they are live now, so this also works after a squash. A commit brought in the facts
    that were live after it and not before it; a fact that it only solved again is not its own. With `fact` (an id, a
    prefix of one, or a subject) only that fact, which may be any that the commit's columns hold. ConflictError if a
    returning fact contradicts a live one; MemitVCError if no such fact is live; EngineError if constraints are missing.
    """
    commits = reverted_commits(repository, revisions)
    head = repository.head()
    state = LiveState.at(repository, head.commit)
    plan = _undone(state, commits, fact, on_conflict)
    leaving, returning = plan.leaving, plan.returning
    if not leaving and not returning:
        what = ", ".join(short(c.id) for c in commits) + (f": a fact {fact!r}" if fact is not None else "")
        raise RevisionError(
            f"nothing to take out: no fact of {what} is live",
            hint="Look at `memitvc facts`. To undo a revert, or a commit that only solved facts "
            "again, leave off --resolve.",
        )
    single = {*leaving, *returning} if fact is not None else ()
    text = revert_message(repository, commits, single, "This takes commit {} out by re-solving the rest.")
    details: dict[str, JsonValue] = {
        "reverts": [c.id for c in commits],
        "resolve": True,
        **conflict_details(plan.contradictions, on_conflict),
    }
    return record_solution(
        solve_change(state, leaving, returning, verb="revert", loaded=loaded, progress=progress),
        head,
        state,
        kind="revert",
        message=message or text,
        details={**details, **({"fact": fact} if fact is not None else {})},
    )


@dataclass(frozen=True)
class _Plan:
    """The facts that leave, and those that return, each with a column that has its constraint."""

    leaving: frozenset[FactId]
    returning: Mapping[FactId, ColumnId]
    contradictions: tuple[Contradiction, ...]


def _undone(state: LiveState, commits: Sequence[Commit], fact: str | None, on_conflict: OnConflict) -> _Plan:
    """How the set of live facts changes when commits are taken back."""
    repository = state.repository
    live = {source.fact for source in state.sources}
    wanted, columns, befores = frozenset(live), dict[FactId, ColumnId](), list[frozenset[FactId]]()
    for commit in commits:
        before = {s.fact: s.column for s in LiveState.at(repository, commit.parents[0]).sources}
        after = {s.fact for s in LiveState.at(repository, commit.id).sources}
        added, removed = after - before.keys(), before.keys() - after
        questions = {id_: known.question for id_, known in repository.facts(wanted | added | removed).items()}
        wanted = inverse_facts(wanted, added, removed, questions)
        columns |= {id_: column for id_, column in before.items() if id_ in removed}
        befores.append(frozenset(before))
    if fact is not None:
        # the only way to take one fact out of a patch that cannot be split, whichever commit brought it in
        held = {s.fact for commit in commits for s in LiveState(repository, commit.adds).sources} & live
        leaving, returning = (live - wanted) | held, wanted - live
        chosen = named_facts(repository, leaving, returning, fact)
        wanted = (frozenset(live) - (chosen & leaving)) | (chosen & returning)
    described = repository.facts(sorted(wanted))
    where = {s.fact: state.origins[s.column] for s in state.sources}
    found = [
        Contradiction(one, other, where.get(one.id), where.get(other.id, commits[0].id))
        for one, other in pairs_apart(described.values(), live, befores)
    ]
    what = f"reverting {', '.join(short(commit.id) for commit in commits)}"
    wanted -= losers(found, live, on_conflict, what=what)
    return _Plan(frozenset(live - wanted), {id_: columns[id_] for id_ in sorted(wanted - live)}, tuple(found))


def resolve_squash(
    repository: Repository,
    *,
    message: str | None = None,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Resolved:
    """Replace every column of HEAD's state by one patch D(S) for all live facts.

    It repairs histories that were computed without history, or reverted much: the result does not depend on how the
    state came about. Cancelled facts leave the state for good. MemitVCError if HEAD has no columns, or is D(S).
    """
    head = repository.head()
    state = LiveState.at(repository, head.commit)
    if not state.columns:
        raise MemitVCError(
            "nothing to squash: HEAD's weights are the base's",
            hint="Commit facts first, or switch to a branch that has some.",
        )
    chosen = {entry.fact.id: entry.column for entry in state.live}
    solved = solve_whole(state, chosen, verb="squash", loaded=loaded, progress=progress)
    if solved.patch is not None and state.columns == frozenset(solved.patch.columns):
        raise MemitVCError(
            "nothing to squash: HEAD's live facts are solved together already",
            hint="Run it again after other commits.",
        )
    return record_solution(
        solved,
        head,
        state,
        removes=state.columns,
        kind="squash",
        message=message or f"Solve {count(len(chosen), 'live fact')} afresh",
        details={"resolve": True, "facts": len(chosen)},
    )


def solve_whole(
    state: LiveState,
    chosen: Mapping[FactId, ColumnId],
    *,
    verb: str,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Solved:
    """D of the live facts of `state`. `chosen` says which column stands for each fact: the set has each fact once."""
    solver = solver_for(state, loaded=loaded, progress=progress)
    constraints = solver.constraints(state)
    once = [i for i, source in enumerate(constraints.sources) if chosen.get(source.fact) == source.column]
    if not once:
        return Solved(solver, Solution({}, (), LiveConstraints((), {}, {})))
    solution = solver.whole(constraints.select(once))
    return Solved.of(solver, solution, verb=verb, context=state, keep=LiveState(state.repository, ()))


def solve_change(
    state: LiveState,
    leaving: Collection[FactId],
    into: Mapping[FactId, ColumnId],
    *,
    verb: str,
    loaded: LoadedModel | None,
    progress: Progress,
) -> Solved:
    """Columns beside those of `state` that take facts out and put others in, by the constraints of the given columns.

    MemitVCError for a fact whose cancel column is live: another edit column of it would have no effect.
    """
    for column, pairs in state.roles.items():
        for fact, role in pairs:
            if role == "cancel" and fact in into:
                raise MemitVCError(
                    f"{state.facts[fact].subject!r} was taken out with `revert --resolve` (column {short(column)}), "
                    "which still stands",
                    hint="Revert that commit to bring the fact back, or clear the way with `memitvc squash --resolve`.",
                )
    every = LiveState(state.repository, state.columns.union(into.values()))
    solver = solver_for(every, loaded=loaded, progress=progress)
    out = [index for index, source in enumerate(state.sources) if source.fact in leaving]
    found = solver.constraints(LiveState(state.repository, into.values()))
    chosen = found.select([i for i, source in enumerate(found.sources) if into.get(source.fact) == source.column])
    solution = solver.change(state, out=out, into=chosen)
    return Solved.of(solver, solution, verb=verb, context=state, keep=state)


def record_solution(
    solved: Solved,
    head: Head,
    state: LiveState,
    *,
    removes: State = frozenset(),
    kind: Kind,
    message: str,
    details: Mapping[str, JsonValue],
    merged: Sequence[CommitId] = (),
    contradictions: Sequence[Contradiction] = (),
    notes: Sequence[str] = (),
) -> Resolved:
    """Store what was solved for HEAD's state, then the commit on HEAD, whose further parents are `merged`.

    RefMovedError if the branch moved while it was solved.
    """
    repository, patch = state.repository, solved.patch
    adds = frozenset(() if patch is None else patch.columns)
    gone = removes - adds
    made = draft(
        repository,
        [head.commit, *merged],
        Change(adds - state.columns, gone),
        kind=kind,
        message=message,
        patches=() if patch is None else [patch.id],
        provenance=None if patch is None else patch.header.provenance,
        details=details,
    )
    done = record(
        repository,
        head,
        [made],
        patches=() if patch is None else [patch],
        blobs=solved.blobs,
        contradictions=contradictions,
        notes=(*solved.solver.notes, *solved.solution.notes(), *notes),
    )
    return Resolved(
        **vars(done),
        patch=None if patch is None else patch.id,
        taken_out=sum(column.role == "cancel" for column in solved.solution.columns),
        put_in=sum(column.role == "edit" for column in solved.solution.columns),
        columns_removed=len(gone),
        snapping=solved.snapping,
        dense=patch is not None and not patch.header.divisible,
    )
