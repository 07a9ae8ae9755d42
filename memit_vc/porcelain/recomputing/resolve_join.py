"""`merge --resolve` and `cherry-pick --resolve`: two sets of facts come together in closed form.

A merge replaces both sides' columns by one new patch D(S₁ ∪ S₂), so that it does not matter how they came about; a fact
that both sides have counts once, as ours has it. A pick adds one column per fact.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from memit_vc.errors import MemitVCError
from memit_vc.objects import ColumnId, FactId, JsonValue, short
from memit_vc.porcelain.editing.models import LoadedModel
from memit_vc.porcelain.editing.policy import Guard
from memit_vc.porcelain.recomputing.resolve import Resolved, record_solution, solve_change, solve_whole
from memit_vc.porcelain.sets.cherry_pick import named_commits, picked_state
from memit_vc.porcelain.sets.merge import merged_state
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, count, silent
from memit_vc.repository import Repository
from memit_vc.vcs.contradictions import Contradiction, OnConflict, conflict_details
from memit_vc.vcs.graph import is_ancestor


def resolve_merge(
    repository: Repository,
    revision: str,
    *,
    on_conflict: OnConflict = "stop",
    message: str | None = None,
    guard: Guard | None = None,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Resolved:
    """Merge `revision` into HEAD by solving all live facts of both sides at once. Never a fast-forward.

    ConflictError as for `merge`, before anything is computed; MemitVCError if HEAD has all of `revision` already;
    PolicyError of the `guard`, which sees the solved weights before anything is stored.
    """
    theirs, head = repository.resolve(revision), repository.head()
    if is_ancestor(theirs, head.commit, repository.parents):
        raise MemitVCError(
            f"already up to date: {short(theirs)} is in HEAD's history",
            hint="Use `memitvc squash --resolve` to solve HEAD's facts again.",
        )
    ours = LiveState.at(repository, head.commit)
    joined = merged_state(ours, theirs, on_conflict, what=f"merging {revision}")
    state = LiveState(repository, joined.state)
    chosen = _standing(state, ours.columns)
    details: dict[str, JsonValue] = {"merges": theirs, "resolve": True, "facts": len(chosen)}
    solved = solve_whole(state, chosen, verb="merge", loaded=loaded, progress=progress)
    told: Sequence[str] = ()
    if guard is not None:
        after = repository.state_id(frozenset(() if solved.patch is None else solved.patch.columns))
        facts = [state.facts[fact] for fact in sorted(chosen)]
        told = guard.solved(solved.solver.loaded, ours, facts, after, solved.weights())
    return record_solution(
        solved,
        head,
        ours,
        removes=ours.columns,
        kind="merge",
        message=message or f"Merge {revision!r} by solving {count(len(chosen), 'fact')}",
        details=details | conflict_details(joined.contradictions, on_conflict),
        merged=[theirs],
        contradictions=joined.contradictions,
        notes=told,
    )


def resolve_pick(
    repository: Repository,
    revisions: Sequence[str],
    *,
    on_conflict: OnConflict = "stop",
    message: str | None = None,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Resolved:
    """Put the facts of `revisions` into HEAD's state by their stored constraints, in one commit.

    Facts that those commits took out leave, and so do facts that `on_conflict` "theirs" replaces. ConflictError as for
    `cherry-pick`; MemitVCError if everything is here already.
    """
    picked = named_commits(repository, revisions)
    head = repository.head()
    state = wanted = LiveState.at(repository, head.commit)
    conflicts: list[Contradiction] = []
    for commit in repository.commits(picked).values():
        joined = picked_state(wanted, commit, on_conflict)
        conflicts += joined.contradictions
        wanted = wanted.with_columns(joined.state, dict.fromkeys(joined.change.adds, commit.id))
    names = ", ".join(short(target) for target in picked)
    present, aimed = _standing(state, state.columns), _standing(wanted, state.columns)
    into = {fact: column for fact, column in aimed.items() if fact not in present}
    leaving = present.keys() - aimed.keys()
    if not into and not leaving:
        raise MemitVCError(
            f"nothing to pick: the change of {names} is here already",
            hint="Look at `memitvc facts`, which lists what is live.",
        )
    details: dict[str, JsonValue] = {"picks": picked[0] if len(picked) == 1 else list(picked), "resolve": True}
    subject = repository.commit(picked[0]).message if len(picked) == 1 else f"Pick {len(picked)} commits"
    return record_solution(
        solve_change(state, leaving, into, verb="cherry-pick", loaded=loaded, progress=progress),
        head,
        state,
        kind="cherry-pick",
        message=message or f"{subject}\n\nSolved in from {', '.join(picked)}.",
        details=details | conflict_details(conflicts, on_conflict),
        contradictions=conflicts,
    )


def _standing(state: LiveState, ours: Collection[ColumnId]) -> dict[FactId, ColumnId]:
    """Live fact → the column that stands for it: one of ours if there is one, the last in order of patches."""
    found: dict[FactId, ColumnId] = {}
    for source in sorted(state.sources, key=lambda source: source.column in ours):
        found[source.fact] = source.column
    return found
