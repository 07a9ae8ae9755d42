"""`cherry-pick`: make the change of other commits here too. Set algebra: no model, exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memit_vc.errors import MemitVCError, RevisionError
from memit_vc.objects import Commit, CommitId, short
from memit_vc.porcelain.record import Outcome, draft, record
from memit_vc.porcelain.sets.join import Joined, Side, join
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from memit_vc.vcs.contradictions import Contradiction, OnConflict, conflict_details
from memit_vc.vcs.state import Change, apply


@dataclass(frozen=True, kw_only=True)
class Picked(Outcome):
    """`ids` are the new commits; `skipped` are picked commits whose change was here already."""

    ids: tuple[CommitId, ...]
    picked: tuple[CommitId, ...]
    skipped: tuple[CommitId, ...]


def cherry_pick(
    repository: Repository,
    revisions: Sequence[str],
    *,
    on_conflict: OnConflict = "stop",
    message: str | None = None,
) -> Picked:
    """One new commit on HEAD for each commit of `revisions` (a range A..B stands for its commits, oldest first).

    Columns that it brought in come in here, and columns that it took out leave, unless that is so already. A merge
    counts by its change against its first parent. All or nothing, in one operation. ConflictError as for `merge`;
    MemitVCError if everything is here already.
    """
    picked = named_commits(repository, revisions)
    head = repository.head()
    state = LiveState.at(repository, head.commit)
    made: list[Commit] = []
    skipped: list[CommitId] = []
    conflicts: list[Contradiction] = []
    warnings: list[str] = []
    for target, commit in repository.commits(picked).items():
        if commit.kind == "root":
            raise MemitVCError(
                f"{short(target)} is the base itself", hint="Name another commit: all of them contain the base."
            )
        joined = picked_state(state, commit, on_conflict)
        if not joined.change:
            skipped.append(target)
            continue
        conflicts += joined.contradictions
        warnings += joined.warnings
        new = draft(
            repository,
            [made[-1].id if made else head.commit],
            joined.change,
            kind="cherry-pick",
            message=message or f"{commit.message}\n\nPicked from commit {target}.",
            provenance=commit.provenance,
            details={"picks": target, **conflict_details(joined.contradictions, on_conflict)},
        )
        made.append(new)
        state = state.with_columns(joined.state, dict.fromkeys(joined.change.adds, new.id))
    if not made:
        raise _nothing(state, skipped)
    return Picked(
        **vars(record(repository, head, made, contradictions=conflicts, warnings=warnings)),
        ids=tuple(commit.id for commit in made),
        picked=tuple(target for target in picked if target not in skipped),
        skipped=tuple(skipped),
    )


def named_commits(repository: Repository, revisions: Sequence[str]) -> list[CommitId]:
    """The commits that revisions and ranges name, each once, in the order given. RevisionError if that is none."""
    named = list(dict.fromkeys(c for revision in revisions for c in repository.resolve_range(revision)))
    if not named:
        raise RevisionError(
            f"{', '.join(revisions)}: no commit is in that range",
            hint="Name a range A..B with commits in B that A lacks.",
        )
    return named


def picked_state(state: LiveState, commit: Commit, on_conflict: OnConflict) -> Joined:
    """`state` with the change of a commit made in it. ConflictError as for `merge`."""
    change = Change.of(commit)
    there = LiveState(
        state.repository, state.repository.state(commit.id), origins=dict.fromkeys(commit.adds, commit.id)
    )
    side = Side(there, change=change.adds | change.removes, commit=commit.id)
    return join(state, apply(state.columns, change), [side], on_conflict, what=f"picking {short(commit.id)}")


def _nothing(state: LiveState, skipped: Sequence[CommitId]) -> MemitVCError:
    """Why nothing is left to pick: the columns are here, or they are here beside columns that cancel them."""
    what = ", ".join(short(commit) for commit in skipped)
    brought = {column for commit in state.repository.commits(skipped).values() for column in commit.adds}
    named = {fact for column in brought & state.columns for fact, _ in state.roles[column]}
    hint = "`memitvc facts` lists what is live."
    for fact in sorted(named & state.cancelled)[:1]:
        subject = state.facts[fact].subject
        hint = f"{subject!r} was taken out with `revert --resolve`: revert that commit to bring it back."
    return MemitVCError(f"nothing to pick: the change of {what} is here already", hint=hint)
