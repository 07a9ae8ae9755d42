"""`revert`: take the change of commits back. Set algebra: no model, no statistics, exact by construction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from memit_vc.errors import MemitVCError, RevisionError
from memit_vc.objects import ColumnId, Commit, CommitId, FactId, PatchId, short, utc_now
from memit_vc.porcelain.record import author_name, head_update
from memit_vc.porcelain.sets.built_on import built_on
from memit_vc.porcelain.sets.conflicts import OnConflict
from memit_vc.porcelain.sets.contradictions import Contradiction, conflict_details
from memit_vc.porcelain.sets.join import Side, join
from memit_vc.porcelain.sets.named_fact import named_facts
from memit_vc.porcelain.sets.revert_message import revert_message
from memit_vc.repository import Repository
from memit_vc.vcs.exact import check_bound
from memit_vc.vcs.inverse import inverse
from memit_vc.vcs.settling import Roles
from memit_vc.vcs.state import Change, State, change_between

__all__ = ["RevertResult", "patches_of", "revert", "reverted_commits"]


@dataclass(frozen=True)
class RevertResult:
    """`later` are commits whose live facts were computed on top of what is now gone; those facts stay."""

    id: CommitId
    branch: str | None
    reverted: tuple[CommitId, ...]
    removed: int
    restored: int
    later: tuple[CommitId, ...]
    contradictions: tuple[Contradiction, ...] = ()
    notes: tuple[str, ...] = ()


def revert(
    repository: Repository,
    revisions: Sequence[str],
    *,
    fact: str | None = None,
    on_conflict: OnConflict = "stop",
    message: str | None = None,
) -> RevertResult:
    """Take back the change of state of each revision (A..B stands for its commits), in one commit on HEAD.

    The inverse of each change is applied to HEAD's state one after the other, the newest commit first: what it brought
    in goes, what it took out comes back, as far as that still stands (`vcs.inverse`). Columns that cancel a fact go
    with it. With `fact` (an id, a prefix of one, or a subject) only that fact's columns. ConflictError, with the
    repository unchanged, where what comes back contradicts a live fact and `on_conflict` does not say which stays.
    """
    commits = reverted_commits(repository, revisions)
    head = repository.head()
    origins = repository.origins(head.commit)
    state = frozenset(origins)
    sides, wanted = _undone(repository, commits, state)
    chosen: frozenset[FactId] = frozenset()
    if fact is not None:
        wanted, chosen = _of_fact(repository, state, wanted, fact)
    what = ", ".join(short(commit.id) for commit in commits)
    joined = join(repository, wanted, Side(state, origins), sides, on_conflict, what=f"reverting {what}")
    change = change_between(state, joined.state)
    if not change.adds and not change.removes:
        hint = "`memitvc facts` lists what is live."
        if fact is not None:
            raise RevisionError(
                f"{what} changes nothing of a live fact {fact!r}", hint=_elsewhere(repository, head.commit, fact)
            )
        if any(commit.removes for commit in commits):
            hint = f"What it put in the place of other columns has been replaced or taken out since. {hint}"
        raise MemitVCError(f"nothing to revert: nothing of {what} is live", hint=hint)
    if change.adds:
        check_bound(repository.bounds(joined.state))
    made = Commit(
        base=repository.base_id,
        parents=(head.commit,),
        adds=tuple(sorted(change.adds)),
        removes=tuple(sorted(change.removes)),
        patches=tuple(sorted(patches_of(repository, change.adds))),
        kind="revert",
        message=message or revert_message(repository, commits, chosen, "This takes back commit {}."),
        author=author_name(repository),
        time=utc_now(),
        details={
            "reverts": [commit.id for commit in commits],
            **({"fact": fact} if fact is not None else {}),
            **conflict_details(joined.contradictions, on_conflict),
        },
    )
    later = built_on(repository, head.commit, joined.state & state, change.removes)
    repository.publish(verb="revert", description=made.subject, commits=[made], **head_update(head, made.id))
    return RevertResult(
        id=made.id,
        branch=head.branch,
        reverted=tuple(commit.id for commit in commits),
        removed=len(change.removes),
        restored=len(change.adds),
        later=later,
        contradictions=joined.contradictions,
        notes=tuple(joined.notes()),
    )


def reverted_commits(repository: Repository, revisions: Sequence[str]) -> list[Commit]:
    """The commits that revisions and ranges name, children before parents. MemitVCError for the base itself."""
    named = dict.fromkeys(c for revision in revisions for c in repository.resolve_range(revision))
    if not named:
        raise RevisionError(f"{', '.join(revisions)}: no commit is in that range", hint="A..B is what B has and A not.")
    commits = list(repository.commits(sorted(named, key=repository.order, reverse=True)).values())
    for commit in commits:
        if commit.kind == "root":
            raise MemitVCError(
                f"{short(commit.id)} is the base itself", hint="`memitvc log` shows what can be reverted."
            )
    return commits


def patches_of(repository: Repository, columns: Collection[ColumnId]) -> set[PatchId]:
    """The patches that hold some columns."""
    return set(repository.selection(columns)) if columns else set()


def _undone(repository: Repository, commits: Sequence[Commit], state: State) -> tuple[list[Side], State]:
    """`state` without the commits' changes, and for each commit the state that it was made on."""
    sides = []
    for commit in commits:
        before = repository.origins(commit.parents[0])
        change = Change(frozenset(commit.adds), frozenset(commit.removes))
        sides.append(Side(frozenset(before), before, commit=commit.id))
        roles: Roles = repository.column_facts(state | sides[-1].state | change.adds)
        facts = repository.facts({fact for pairs in roles.values() for fact, _ in pairs})
        questions = {id_: described.question for id_, described in facts.items()}
        state = inverse(state, change, frozenset(before), roles, questions)
    return sides, state


def _of_fact(repository: Repository, state: State, wanted: State, name: str) -> tuple[State, frozenset[FactId]]:
    """What of the change from `state` to `wanted` is of one fact, and that fact with what it had replaced."""
    change = change_between(state, wanted)
    pairs = repository.column_facts(change.adds | change.removes)
    leaving = {fact for column in change.removes for fact, _ in pairs[column]}
    returning = {fact for column in change.adds for fact, _ in pairs[column]}
    chosen = named_facts(repository, leaving, returning, name)
    columns = {column for column, entries in pairs.items() if any(fact in chosen for fact, _ in entries)}
    for column in columns:
        if len(pairs[column]) > 1:
            raise MemitVCError(
                f"fact {name!r} belongs to a patch of {len(pairs[column])} facts, which cannot be split",
                hint="Revert the whole commit, or use --resolve, which takes one fact out in closed form.",
            )
    return (state - (change.removes & columns)) | (change.adds & columns), chosen


def _elsewhere(repository: Repository, head: CommitId, name: str) -> str:
    """Where the fact came in that `--fact` names, if it is live at all."""
    live = {entry.fact.id: entry for entry in repository.live_facts(head)}
    with suppress(RevisionError):  # which names several
        for fact in named_facts(repository, live, (), name):
            commit = short(live[fact].commit)
            return f"It came in with commit {commit}: memitvc revert {commit} --fact {short(fact)}"
    return "`memitvc facts` lists what is live, and the commits."
