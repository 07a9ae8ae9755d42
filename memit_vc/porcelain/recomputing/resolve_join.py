"""`merge --resolve` and `cherry-pick --resolve`: two sets of facts come together in closed form.

A merge puts one new patch D(S₁ ∪ S₂) in the place of both sides' columns, so that it does not matter how they came
about; a fact that both sides have counts once, as ours has it. A pick adds one column per fact to what is there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from memit_vc.errors import MemitVCError
from memit_vc.objects import ColumnId, FactId, JsonValue, short
from memit_vc.porcelain.editing.constraints import live_sources
from memit_vc.porcelain.editing.solver import solver_for
from memit_vc.porcelain.recomputing.resolve import Resolved, chosen_constraints, record, refuse_cancelled, solve_whole
from memit_vc.porcelain.sets.cherry_pick import picked_state
from memit_vc.porcelain.sets.contradictions import Contradiction, conflict_details
from memit_vc.porcelain.sets.join import Side, join
from memit_vc.progress import Progress, count, silent
from memit_vc.vcs.graph import is_ancestor
from memit_vc.vcs.state import merge_commits

if TYPE_CHECKING:
    from memit_vc.porcelain.editing.models import LoadedModel
    from memit_vc.porcelain.sets.conflicts import OnConflict
    from memit_vc.repository import Repository

__all__ = ["resolve_merge", "resolve_pick"]


def resolve_merge(
    repository: Repository,
    revision: str,
    *,
    on_conflict: OnConflict = "stop",
    message: str | None = None,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Resolved:
    """Merge `revision` into HEAD by solving all live facts of both sides at once. Never a fast-forward.

    ConflictError as for `merge`, before anything is computed; MemitVCError where HEAD has all of `revision` already.
    """
    theirs, head = repository.resolve(revision), repository.head()
    if is_ancestor(theirs, head.commit, repository.parents):
        raise MemitVCError(
            f"already up to date: {short(theirs)} is in HEAD's history",
            hint="`memitvc squash --resolve` solves HEAD's facts afresh.",
        )
    ours = repository.origins(head.commit)
    there = Side(repository.state(theirs), repository.origins(theirs), wins=True)
    merged = merge_commits(head.commit, theirs, repository.parents, repository.state)
    joined = join(repository, merged, Side(frozenset(ours), ours), [there], on_conflict, what=f"merging {revision}")
    chosen = _standing(repository, joined.state, ours)
    made = solve_whole(repository, joined.state, chosen, verb="merge", loaded=loaded, progress=progress)
    details: dict[str, JsonValue] = {"merges": theirs, "resolve": True, "facts": len(chosen)}
    details |= conflict_details(joined.contradictions, on_conflict)
    return record(
        *made.arguments(head),
        state=frozenset(ours),
        removes=frozenset(ours),
        kind="merge",
        message=message or f"Merge {revision!r} by solving {count(len(chosen), 'fact')}",
        details=details,
        parents=[theirs],
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

    What those commits took out goes out, and so does what `on_conflict` "theirs" replaces. ConflictError as for
    `cherry-pick`; MemitVCError where everything is here already.
    """
    picked = list(dict.fromkeys(c for revision in revisions for c in repository.resolve_range(revision)))
    head = repository.head()
    ours = dict(repository.origins(head.commit))
    state = wanted = frozenset(ours)
    conflicts: list[Contradiction] = []
    for commit in repository.commits(picked).values():
        joined = picked_state(repository, wanted, commit, ours, on_conflict)
        conflicts += joined.contradictions
        ours |= dict.fromkeys(joined.state - wanted, commit.id)
        wanted = joined.state
    names = ", ".join(short(target) for target in picked)
    present, aimed = _standing(repository, state, state), _standing(repository, wanted, state)
    into = {fact: column for fact, column in aimed.items() if fact not in present}
    leaving = present.keys() - aimed.keys()
    if not into and not leaving:
        raise MemitVCError(
            f"nothing to pick: the change of {names} is here already", hint="`memitvc facts` lists what is live."
        )
    refuse_cancelled(repository, state, into)
    solver = solver_for(repository, {*state, *into.values()}, loaded=loaded, progress=progress)
    out = [index for index, source in enumerate(solver.constraints(state).sources) if source.fact in leaving]
    solution = solver.change(state, out=out, into=chosen_constraints(solver, into))
    details: dict[str, JsonValue] = {"picks": picked[0] if len(picked) == 1 else list(picked), "resolve": True}
    details |= conflict_details(conflicts, on_conflict)
    subject = repository.commit(picked[0]).message if len(picked) == 1 else f"Pick {len(picked)} commits"
    return record(
        solver,
        head,
        solution,
        solver.patch(solution, verb="cherry-pick", context=state, keep=state),
        state=state,
        removes=(),
        kind="cherry-pick",
        message=message or f"{subject}\n\nSolved in from {', '.join(picked)}.",
        details=details,
    )


def _standing(
    repository: Repository, state: Collection[ColumnId], ours: Collection[ColumnId]
) -> dict[FactId, ColumnId]:
    """Live fact → the column that stands for it: one of ours where there is one, the last in order of patches."""
    found: dict[FactId, ColumnId] = {}
    for source in sorted(live_sources(repository, state), key=lambda source: source.column in ours):
        found[source.fact] = source.column
    return found
