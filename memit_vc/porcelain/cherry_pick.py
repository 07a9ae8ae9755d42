"""`cherry-pick`: make the change of other commits here too. Set algebra: no model, exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memit_vc.errors import MemitVCError
from memit_vc.objects import Commit, CommitId, JsonValue, StateId, short
from memit_vc.porcelain.author import author_name, now
from memit_vc.porcelain.conflicts import OnConflict
from memit_vc.porcelain.contradictions import Contradiction, join
from memit_vc.porcelain.move import head_update
from memit_vc.porcelain.revert import patches_of
from memit_vc.repository import Repository
from memit_vc.vcs.exact import check_bound
from memit_vc.vcs.state import Change, apply, change_between

__all__ = ["PickResult", "cherry_pick"]


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
    origins = repository.origins(head.commit)
    state = frozenset(origins)
    made: list[Commit] = []
    skipped: list[CommitId] = []
    conflicts: list[Contradiction] = []
    notes: list[str] = []
    for target, commit in repository.commits(picked).items():
        if commit.kind == "root":
            raise MemitVCError(f"{short(target)} is the base itself", hint="Every commit stands on it already.")
        wanted = apply(state, Change(frozenset(commit.adds), frozenset(commit.removes)))
        if wanted == state:
            skipped.append(target)
            continue
        joined = join(
            repository,
            wanted,
            {column: origins[column] for column in state},
            dict.fromkeys(commit.adds, target),
            on_conflict,
            what=f"picking {short(target)}",
        )
        conflicts += joined.contradictions
        notes += joined.notes()
        check_bound(repository.bounds(joined.state))
        change = change_between(state, joined.state)
        if not change.adds and not change.removes:
            skipped.append(target)
            continue
        new = _commit(repository, commit, made[-1].id if made else head.commit, change, message)
        made.append(new)
        origins |= dict.fromkeys(change.adds, new.id)
        state = joined.state
    if not made:
        what = ", ".join(short(c) for c in skipped)
        raise MemitVCError(
            f"nothing to pick: the change of {what} is here already", hint="`memitvc facts` lists what is live."
        )
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


def _commit(repository: Repository, original: Commit, parent: CommitId, change: Change, message: str | None) -> Commit:
    details: dict[str, JsonValue] = {"picks": original.id}
    return Commit(
        base=repository.base_id,
        parents=(parent,),
        adds=tuple(sorted(change.adds)),
        removes=tuple(sorted(change.removes)),
        patches=tuple(sorted(patches_of(repository, change.adds))),
        kind="cherry-pick",
        message=message or f"{original.message}\n\nPicked from commit {original.id}.",
        author=author_name(repository),
        time=now(),
        provenance=original.provenance,
        details=details,
    )
