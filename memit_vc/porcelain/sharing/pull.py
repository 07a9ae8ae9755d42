"""`pull`: fetch, and move the branch forward if that loses nothing; one operation, so that `undo` takes it back."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from memit_vc.errors import RefMovedError, RevisionError, UsageError
from memit_vc.objects import Commit, CommitId, RefUpdate, short
from memit_vc.porcelain.record import move_head
from memit_vc.porcelain.sharing.fetch import Fetched, Moves, fetch_from
from memit_vc.porcelain.sharing.remote_history import Published
from memit_vc.porcelain.sharing.remotes import named_remote
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, count, silent
from memit_vc.repository import Repository
from memit_vc.vcs.graph import is_ancestor


@dataclass(frozen=True)
class Pulled:
    """`before` and `after` are where the branch (None: a detached HEAD) was and is."""

    fetched: Fetched
    branch: str
    before: CommitId
    after: CommitId


def pull(
    repository: Repository,
    remote: str | None = None,
    branch: str | None = None,
    *,
    guard: Callable[[LiveState, LiveState], Sequence[str]] | None = None,
    progress: Progress = silent,
) -> Pulled:
    """Fetch, then move the current branch to the remote's branch of that name (or to `branch`).

    With a `guard` these are two operations: it sees HEAD's state and theirs before the branch moves, and may raise.

    RefMovedError if both sides have commits that the other lacks: theirs are here by then, and the hint says how to
    merge them. RevisionError if the remote has no such branch. Other errors as for `fetch`.
    """
    name, url = named_remote(repository, remote)
    head = repository.head()
    if head.branch is None:
        raise UsageError("HEAD is detached: there is no branch to move", hint="Run `memitvc switch BRANCH`, then pull.")
    theirs = branch or head.branch
    diverged = False
    waiting: CommitId | None = None

    def plan(found: Published, commit_of: Callable[[CommitId], Commit]) -> Moves:
        nonlocal diverged, waiting
        target = found.manifest.refs.get(f"heads/{theirs}")
        if target is None:
            known = sorted(ref[6:] for ref in found.manifest.refs if ref.startswith("heads/"))
            raise RevisionError(
                f"{url} has no branch {theirs!r}", hint=f"Name one of {', '.join(known)}: memitvc pull {name} BRANCH"
            )

        def parents(commit: CommitId) -> tuple[CommitId, ...]:
            return commit_of(commit).parents

        if is_ancestor(target, head.commit, parents):
            return Moves("pull")
        if not is_ancestor(head.commit, target, parents):
            diverged = True
            return Moves("fetch")
        if guard is not None:
            waiting = target
            return Moves("fetch")
        return Moves("pull", [RefUpdate(f"heads/{head.branch}", head.commit, target)])

    fetched = fetch_from(repository, name, url, plan=plan, progress=progress)
    if diverged:
        raise RefMovedError(
            f"{head.branch} and {name}/{theirs} have both moved on; fetched: {count(fetched.commits, 'commit')}; "
            f"{head.branch} stays at {short(head.commit)}",
            hint=f"Join them: memitvc merge {shlex.quote(f'{name}/{theirs}')}",
        )
    if guard is not None and waiting is not None:
        notes = guard(LiveState.at(repository, head.commit), LiveState.at(repository, waiting))
        move_head(repository, head, waiting, verb="pull", description=f"fast-forward to {short(waiting)}")
        fetched = replace(fetched, notes=(*fetched.notes, *notes))
    return Pulled(fetched, head.branch, head.commit, repository.head().commit)
