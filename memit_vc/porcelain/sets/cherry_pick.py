"""`cherry-pick`: make the change of other commits here too. Set algebra: no model, exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memit_vc.errors import MemitVCError
from memit_vc.objects import ColumnId, Commit, CommitId, JsonValue, StateId, short, utc_now
from memit_vc.porcelain.record import author_name, head_update
from memit_vc.porcelain.sets.conflicts import OnConflict
from memit_vc.porcelain.sets.contradictions import Contradiction, conflict_details
from memit_vc.porcelain.sets.join import Joined, Side, join
from memit_vc.porcelain.sets.revert import patches_of
from memit_vc.repository import Repository
from memit_vc.vcs.exact import check_bound
from memit_vc.vcs.state import Change, State, apply, change_between

__all__ = ["PickResult", "cherry_pick", "picked_state"]


@dataclass(frozen=True)
class PickResult:
    """`ids` are the new commits; `skipped` the picked ones whose change was there already."""

    ids: tuple[CommitId, ...]
    branch: str | None
    picked: tuple[CommitId, ...]
    skipped: tuple[CommitId, ...]
    state: StateId
    added: int
    removed: int
    contradictions: tuple[Contradiction, ...]
    notes: tuple[str, ...]


def cherry_pick(
    repository: Repository,
    revisions: Sequence[str],
    *,
    on_conflict: OnConflict = "stop",
    message: str | None = None,
) -> PickResult:
    """One new commit on HEAD for each commit of `revisions` (a range A..B stands for its commits, oldest first).

    Columns that it brought in come in here and columns that it took out go out, as far as they are not (are) here; of a
    merge, its change against its first parent. All or nothing, in one operation. ConflictError as for `merge`;
    MemitVCError where everything is here already.
    """
    picked = list(dict.fromkeys(c for revision in revisions for c in repository.resolve_range(revision)))
    head = repository.head()
    origins = dict(repository.origins(head.commit))
    state = frozenset(origins)
    made: list[Commit] = []
    skipped: list[CommitId] = []
    conflicts: list[Contradiction] = []
    notes: list[str] = []
    for target, commit in repository.commits(picked).items():
        if commit.kind == "root":
            raise MemitVCError(f"{short(target)} is the base itself", hint="Every commit stands on it already.")
        joined = picked_state(repository, state, commit, origins, on_conflict)
        change = change_between(state, joined.state)
        if not change.adds and not change.removes:
            skipped.append(target)
            continue
        conflicts += joined.contradictions
        notes += joined.notes()
        check_bound(repository.bounds(joined.state))
        details = {"picks": target, **conflict_details(joined.contradictions, on_conflict)}
        new = _commit(repository, commit, made[-1].id if made else head.commit, change, message, details)
        made.append(new)
        origins |= dict.fromkeys(change.adds, new.id)
        state = joined.state
    if not made:
        raise _nothing(repository, skipped, state)
    repository.publish(
        verb="cherry-pick",
        description=made[0].subject if len(made) == 1 else f"{len(made)} commits",
        commits=made,
        **head_update(head, made[-1].id),
    )
    total = change_between(repository.state(head.commit), state)
    return PickResult(
        tuple(commit.id for commit in made),
        head.branch,
        tuple(target for target in picked if target not in skipped),
        tuple(skipped),
        repository.state_id(state),
        len(total.adds),
        len(total.removes),
        tuple(conflicts),
        tuple(notes),
    )


def picked_state(
    repository: Repository,
    state: State,
    commit: Commit,
    origins: Mapping[ColumnId, CommitId],
    on_conflict: OnConflict,
) -> Joined:
    """`state` with the change of a commit made in it; `origins` of its columns. ConflictError as for `merge`."""
    change = Change(frozenset(commit.adds), frozenset(commit.removes))
    there = Side(
        repository.state(commit.id),
        dict.fromkeys(commit.adds, commit.id),
        change=change.adds | change.removes,
        commit=commit.id,
    )
    wanted = apply(state, change)
    return join(repository, wanted, Side(state, origins), [there], on_conflict, what=f"picking {short(commit.id)}")


def _nothing(repository: Repository, skipped: Sequence[CommitId], state: State) -> MemitVCError:
    """Why nothing is left of a pick: it is here, or it is here and taken out by columns beside it."""
    what = ", ".join(short(commit) for commit in skipped)
    brought = {column for commit in repository.commits(skipped).values() for column in commit.adds}
    named = {fact for pairs in repository.column_facts(brought & state).values() for fact, _ in pairs}
    cancelled = [
        fact
        for pairs in repository.column_facts(state).values()
        for fact, role in pairs
        if role == "cancel" and fact in named
    ]
    hint = "`memitvc facts` lists what is live."
    if cancelled:
        subject = repository.fact(cancelled[0]).subject
        hint = f"{subject!r} was taken out with `revert --resolve`: revert that commit to bring it back."
    return MemitVCError(f"nothing to pick: the change of {what} is here already", hint=hint)


def _commit(
    repository: Repository,
    original: Commit,
    parent: CommitId,
    change: Change,
    message: str | None,
    details: Mapping[str, JsonValue],
) -> Commit:
    return Commit(
        base=repository.base_id,
        parents=(parent,),
        adds=tuple(sorted(change.adds)),
        removes=tuple(sorted(change.removes)),
        patches=tuple(sorted(patches_of(repository, change.adds))),
        kind="cherry-pick",
        message=message or f"{original.message}\n\nPicked from commit {original.id}.",
        author=author_name(repository),
        time=utc_now(),
        provenance=original.provenance,
        details=details,
    )
