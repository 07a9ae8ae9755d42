"""`merge`: the union of two histories, column by column. Set algebra: no model, exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memit_vc.objects import Commit, CommitId, StateId, short, utc_now
from memit_vc.porcelain.record import author_name, head_update
from memit_vc.porcelain.sets.conflicts import OnConflict
from memit_vc.porcelain.sets.contradictions import Contradiction, conflict_details
from memit_vc.porcelain.sets.join import Side, join
from memit_vc.porcelain.sets.revert import patches_of
from memit_vc.repository import Repository
from memit_vc.vcs.exact import check_bound
from memit_vc.vcs.graph import is_ancestor
from memit_vc.vcs.state import change_between, merge_commits

__all__ = ["MergeResult", "merge"]


@dataclass(frozen=True)
class MergeResult:
    """`how` it went; `added` and `removed` count columns against HEAD's state before."""

    id: CommitId
    branch: str | None
    how: Literal["up-to-date", "fast-forward", "merge"]
    state: StateId
    added: int
    removed: int
    contradictions: tuple[Contradiction, ...] = ()
    notes: tuple[str, ...] = ()


def merge(
    repository: Repository,
    revision: str,
    *,
    on_conflict: OnConflict = "stop",
    message: str | None = None,
    fast_forward: bool = True,
) -> MergeResult:
    """Merge `revision` into HEAD.

    A column that either side took out since the merge base is out, one that either side brought in is in; a column met
    twice counts once. Several merge bases are merged with each other first. ConflictError, with the repository
    unchanged, where a live fact of one side contradicts one of the other and `on_conflict` does not say which stays.
    """
    theirs = repository.resolve(revision)
    head = repository.head()
    before = repository.state(head.commit)
    if is_ancestor(theirs, head.commit, repository.parents):
        return MergeResult(head.commit, head.branch, "up-to-date", repository.state_id(before), 0, 0)
    if fast_forward and is_ancestor(head.commit, theirs, repository.parents):
        after = repository.state(theirs)
        repository.publish(
            verb="merge",
            description=f"fast-forward to {short(theirs)}",
            **head_update(head, theirs),
        )
        change = change_between(before, after)
        return MergeResult(
            theirs,
            head.branch,
            "fast-forward",
            repository.state_id(after),
            len(change.adds),
            len(change.removes),
        )
    joined = join(
        repository,
        merge_commits(head.commit, theirs, repository.parents, repository.state),
        Side(before, repository.origins(head.commit)),
        [Side(repository.state(theirs), repository.origins(theirs), wins=True)],
        on_conflict,
        what=f"merging {revision}",
    )
    check_bound(repository.bounds(joined.state))
    change = change_between(before, joined.state)
    made = Commit(
        base=repository.base_id,
        parents=(head.commit, theirs),
        adds=tuple(sorted(change.adds)),
        removes=tuple(sorted(change.removes)),
        patches=tuple(sorted(patches_of(repository, change.adds))),
        kind="merge",
        message=message or _message(repository, revision, theirs),
        author=author_name(repository),
        time=utc_now(),
        details={"merges": theirs, **conflict_details(joined.contradictions, on_conflict)},
    )
    repository.publish(verb="merge", description=made.subject, commits=[made], **head_update(head, made.id))
    return MergeResult(
        made.id,
        head.branch,
        "merge",
        repository.state_id(joined.state),
        len(change.adds),
        len(change.removes),
        joined.contradictions,
        tuple(joined.notes()),
    )


def _message(repository: Repository, revision: str, theirs: CommitId) -> str:
    refs = repository.refs()
    for prefix, kind in (("heads/", "branch"), ("tags/", "tag"), ("remotes/", "remote branch")):
        if prefix + revision in refs:
            return f"Merge {kind} {revision!r}"
    return f"Merge commit {short(theirs)}"
