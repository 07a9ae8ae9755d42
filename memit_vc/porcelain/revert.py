"""`revert`: take columns out of the state. Set algebra: no model, no statistics, exact by construction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from memit_vc.errors import MemitVCError, RevisionError
from memit_vc.objects import ColumnId, Commit, CommitId, PatchId, short
from memit_vc.porcelain.author import author_name, now
from memit_vc.porcelain.move import head_update
from memit_vc.repository import LiveFact, Repository
from memit_vc.vcs.exact import check_bound

__all__ = ["RevertResult", "patches_of", "revert"]

_PREFIX = 4
"""Digits of a fact's id that name it: fewer are more likely a short subject."""


@dataclass(frozen=True)
class RevertResult:
    """`later` are live commits that were computed on top of what is now gone; their facts stay."""

    id: CommitId
    branch: str | None
    reverted: tuple[CommitId, ...]
    removed: int
    restored: int
    later: tuple[CommitId, ...]


def revert(
    repository: Repository, revisions: Sequence[str], *, fact: str | None = None, message: str | None = None
) -> RevertResult:
    """Undo the change of state of each revision, in one commit on HEAD.

    Columns that a revision brought in are taken out, columns that it took out are put back, as far as they still are
    (not) in HEAD's state. With `fact` (an id, a prefix of one, or a subject) only that fact's columns.
    """
    commits = list(dict.fromkeys(repository.resolve(revision) for revision in revisions))
    head = repository.head()
    state = repository.state(head.commit)
    removes: set[ColumnId] = set()
    restores: set[ColumnId] = set()
    for target in commits:
        commit = repository.commit(target)
        if commit.kind == "root":
            raise MemitVCError(f"{short(target)} is the base itself", hint="`memitvc log` shows what can be reverted.")
        removes |= set(commit.adds) & state
        restores |= set(commit.removes) - state
    if fact is not None:
        removes = _of_fact(repository, removes, fact)
        restores = _of_fact(repository, restores, fact)
    if not removes and not restores:
        what = ", ".join(short(c) for c in commits)
        hint = "`memitvc facts` lists what is live."
        if fact is not None:
            raise RevisionError(f"{what}: no live column of a fact {fact!r}", hint=hint)
        raise MemitVCError(f"nothing to revert: nothing of {what} is live", hint=hint)
    if restores:
        check_bound(repository.bounds((state - removes) | restores))
    subjects = [repository.commit(c).subject for c in commits]
    text = message or "\n\n".join(
        [f'Revert "{subjects[0]}"' if len(commits) == 1 else f"Revert {len(commits)} commits"]
        + ([f"Fact: {fact}"] if fact is not None else [])
        + [f"This takes back commit {c}." for c in commits]
    )
    made = Commit(
        base=repository.base_id,
        parents=(head.commit,),
        adds=tuple(sorted(restores)),
        removes=tuple(sorted(removes)),
        patches=tuple(sorted(patches_of(repository, restores))),
        kind="revert",
        message=text,
        author=author_name(repository),
        time=now(),
        details={"reverts": list(commits), **({"fact": fact} if fact is not None else {})},
    )
    live = repository.live_facts(head.commit)
    repository.publish(verb="revert", description=made.subject, commits=[made], **head_update(head, made.id))
    return RevertResult(
        id=made.id,
        branch=head.branch,
        reverted=tuple(commits),
        removed=len(removes),
        restored=len(restores),
        later=_built_on(live, removes),
    )


def patches_of(repository: Repository, columns: Collection[ColumnId]) -> set[PatchId]:
    """The patches that hold some columns."""
    return set(repository.selection(columns)) if columns else set()


def _of_fact(repository: Repository, columns: set[ColumnId], wanted: str) -> set[ColumnId]:
    found = set()
    for column, pairs in repository.column_facts(columns).items():
        for fact_id, _ in pairs:
            named = len(wanted) >= _PREFIX and fact_id.startswith(wanted)
            if named or repository.fact(fact_id).subject.strip() == wanted.strip():
                if len(pairs) > 1:
                    raise MemitVCError(
                        f"fact {wanted!r} belongs to a patch of {len(pairs)} facts, which cannot be split",
                        hint="Revert the whole commit, or use --resolve, which takes one fact out in closed form.",
                    )
                found.add(column)
    return found


def _built_on(live: Sequence[LiveFact], removed: Collection[ColumnId]) -> tuple[CommitId, ...]:
    """Commits that came after the removed columns: they were computed with those in the weights."""
    gone = set(removed)
    first = next((i for i, entry in enumerate(live) if entry.column in gone), len(live))
    # the rest of a batch that one fact leaves was not computed on top of it, but with it
    own = {entry.commit for entry in live if entry.column in gone}
    return tuple(dict.fromkeys(entry.commit for entry in live[first:] if entry.commit not in own))
