"""`--resolve`: revert, squash, merge and cherry-pick in closed form.

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
from memit_vc.objects import (
    ColumnId,
    Commit,
    CommitId,
    FactId,
    Head,
    JsonValue,
    Patch,
    PatchId,
    StateId,
    short,
    utc_now,
)
from memit_vc.porcelain.editing.constraints import LiveConstraints, live_sources
from memit_vc.porcelain.editing.solver import Solution, Solver, solver_for
from memit_vc.porcelain.record import author_name, head_update
from memit_vc.porcelain.sets.conflicts import OnConflict
from memit_vc.porcelain.sets.contradictions import Contradiction, conflict_details, losers, pairs_apart
from memit_vc.porcelain.sets.named_fact import named_facts
from memit_vc.porcelain.sets.revert import reverted_commits
from memit_vc.porcelain.sets.revert_message import revert_message
from memit_vc.progress import Progress, count, silent
from memit_vc.repository import Repository
from memit_vc.vcs.inverse import inverse_facts

if TYPE_CHECKING:
    from memit_vc.porcelain.editing.models import LoadedModel

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
    on_conflict: OnConflict = "stop",
    message: str | None = None,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Resolved:
    """Take the facts that `revisions` (A..B stands for its commits) brought in out as if they had never been in, and
    put back what those commits had taken out, the newest commit first.

    Facts count wherever they live now, so that it also works after a squash. What a commit brought in is told by the
    facts that were live before and after it: one that it only solved anew is not its own. With `fact` (an id, a prefix
    of one, or a subject) only that one, which may be any that the commit's columns hold. ConflictError where what comes
    back contradicts a live fact; MemitVCError where nothing of it is live, EngineError where constraints are missing.
    """
    commits = reverted_commits(repository, revisions)
    head = repository.head()
    origins = repository.origins(head.commit)
    state = frozenset(origins)
    plan = _undone(repository, commits, origins, fact, on_conflict)
    leaving, returning = plan.leaving, plan.returning
    if not leaving and not returning:
        what = ", ".join(short(c.id) for c in commits) + (f": a fact {fact!r}" if fact is not None else "")
        raise RevisionError(
            f"nothing to take out: no fact of {what} is live",
            hint="`memitvc facts` lists what is live. A revert, or a commit that solved the same facts anew, is taken "
            "back without --resolve, to the bit.",
        )
    refuse_cancelled(repository, state, returning)
    solver = solver_for(repository, {*state, *returning.values()}, loaded=loaded, progress=progress)
    sources = solver.constraints(state).sources
    out = [index for index, source in enumerate(sources) if source.fact in leaving]
    solution = solver.change(state, out=out, into=chosen_constraints(solver, returning))
    patch, blobs, snapping = solver.patch(solution, verb="revert", context=state, keep=state)
    single = {*leaving, *returning} if fact is not None else ()
    told = revert_message(repository, commits, single, "This takes commit {} out by re-solving the rest.")
    details: dict[str, JsonValue] = {
        "reverts": [c.id for c in commits],
        "resolve": True,
        **conflict_details(plan.contradictions, on_conflict),
    }
    return record(
        solver,
        head,
        solution,
        (patch, blobs, snapping),
        state=state,
        removes=(),
        kind="revert",
        message=message or told,
        details={**details, **({"fact": fact} if fact is not None else {})},
    )


@dataclass(frozen=True)
class _Plan:
    """The facts that leave, and those that return with the columns that tell their constraints."""

    leaving: frozenset[FactId]
    returning: Mapping[FactId, ColumnId]
    contradictions: tuple[Contradiction, ...]


def _undone(
    repository: Repository,
    commits: Sequence[Commit],
    origins: Mapping[ColumnId, CommitId],
    fact: str | None,
    on_conflict: OnConflict,
) -> _Plan:
    """What it means for the set of live facts to take commits back."""
    live = {source.fact for source in live_sources(repository, origins)}
    wanted, columns, befores = frozenset(live), dict[FactId, ColumnId](), list[frozenset[FactId]]()
    for commit in commits:
        before = {s.fact: s.column for s in live_sources(repository, repository.state(commit.parents[0]))}
        after = {s.fact for s in live_sources(repository, repository.state(commit.id))}
        added, removed = after - before.keys(), before.keys() - after
        questions = {id_: known.question for id_, known in repository.facts(wanted | added | removed).items()}
        wanted = inverse_facts(wanted, added, removed, questions)
        columns |= {id_: column for id_, column in before.items() if id_ in removed}
        befores.append(frozenset(before))
    if fact is not None:
        # a patch that cannot be split gives single facts up in this way only, whoever first brought them in
        held = {s.fact for commit in commits for s in live_sources(repository, commit.adds)} & live
        leaving, returning = (live - wanted) | held, wanted - live
        chosen = named_facts(repository, leaving, returning, fact)
        wanted = (frozenset(live) - (chosen & leaving)) | (chosen & returning)
    described = repository.facts(sorted(wanted))
    where = {s.fact: origins[s.column] for s in live_sources(repository, origins)}
    found = [
        Contradiction(one, other, where.get(one.id), where.get(other.id, commits[0].id))
        for one, other in pairs_apart(list(described.values()), live, befores)
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
    """One patch D(S) for all live facts in the place of every column of HEAD's state.

    It repairs histories that were computed without history, or reverted much: what comes out does not depend on how
    the state came about. Cancelled facts leave the state for good.
    """
    head = repository.head()
    state = repository.state(head.commit)
    if not state:
        raise MemitVCError(
            "nothing to squash: HEAD's weights are the base's",
            hint="Commit facts first, or switch to a branch that has some.",
        )
    chosen = {entry.fact.id: entry.column for entry in repository.live_facts(head.commit)}
    made = solve_whole(repository, state, chosen, verb="squash", loaded=loaded, progress=progress)
    text = message or f"Solve {count(len(chosen), 'live fact')} afresh"
    details: dict[str, JsonValue] = {"resolve": True, "facts": len(chosen)}
    return record(*made.arguments(head), state=state, removes=state, kind="squash", message=text, details=details)


@dataclass(frozen=True)
class Whole:
    """A state solved at once. No patch where nothing of it is live."""

    solver: Solver
    solution: Solution
    packed: tuple[Patch, tuple[bytes, ...], float] | None

    def arguments(self, head: Head) -> tuple[Solver, Head, Solution, tuple[Patch, tuple[bytes, ...], float] | None]:
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
    packed: tuple[Patch, tuple[bytes, ...], float] | None,
    *,
    state: Collection[ColumnId],
    removes: Collection[ColumnId],
    kind: Literal["revert", "squash", "merge", "cherry-pick"],
    message: str,
    details: Mapping[str, JsonValue],
    parents: Sequence[CommitId] = (),
    notes: Sequence[str] = (),
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
        time=utc_now(),
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
        notes=(*solver.notes, *notes, *solution.notes()),
    )
