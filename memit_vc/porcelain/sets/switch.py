"""`switch`: move HEAD to a branch or, detached, to a commit. No weights are written: `checkout` does that."""

from __future__ import annotations

from dataclasses import dataclass

from memit_vc.errors import RevisionError
from memit_vc.objects import CommitId, short
from memit_vc.porcelain.sets.branch import new_branch
from memit_vc.repository import Repository
from memit_vc.vcs.revisions import RangeError


@dataclass(frozen=True)
class Switched:
    """Where HEAD is now; `branch` is None if it is detached. `moved` is False if it was there already."""

    branch: str | None
    commit: CommitId
    subject: str
    moved: bool


def switch(repository: Repository, name: str) -> Switched:
    """To a branch; "-" is the place before the last switch. RevisionError if there is no such branch."""
    if name == "-":
        name = previous(repository)
        if not name.startswith("heads/"):
            return switch_detached(repository, name)
        name = name.removeprefix("heads/")
    commit = repository.refs("heads/").get(f"heads/{name}")
    if commit is None:
        raise _no_branch(repository, name)
    return _move(repository, name, commit)


def switch_to_new(repository: Repository, name: str, revision: str = "HEAD") -> Switched:
    """Make a branch at `revision` and go there, in one operation."""
    commit = repository.resolve(revision)
    repository.publish(
        verb="switch",
        description=f"switch to new branch {name} at {short(commit)}",
        refs=[new_branch(repository, name, commit)],
        head=f"heads/{name}",
    )
    return Switched(name, commit, repository.commit(commit).subject, True)


def switch_detached(repository: Repository, revision: str) -> Switched:
    """HEAD on a commit and on no branch."""
    return _move(repository, None, repository.resolve(revision))


def previous(repository: Repository) -> str:
    """Where HEAD was before it last changed its branch: "heads/<branch>" or a commit id."""
    for operation in repository.operations():
        if operation.verb == "switch" and operation.head_before and operation.head_before != operation.head_after:
            return operation.head_before
    raise RevisionError("HEAD has not been anywhere else", hint="Name a branch; `memitvc branch` lists them.")


def _move(repository: Repository, branch: str | None, commit: CommitId) -> Switched:
    head = repository.head()
    moved = (head.branch, head.commit) != (branch, commit)
    if moved:
        repository.publish(
            verb="switch",
            description=f"switch to {branch or short(commit)}",
            head=f"heads/{branch}" if branch else commit,
        )
    return Switched(branch, commit, repository.commit(commit).subject, moved)


def _no_branch(repository: Repository, name: str) -> RevisionError:
    try:
        commit = repository.resolve(name)
    except RangeError as error:
        return error
    except RevisionError as error:
        fetched = [ref.removeprefix("remotes/") for ref in repository.refs("remotes/") if ref.endswith(f"/{name}")]
        made = " ".join([f"memitvc switch -c {name}", *fetched[:1]])
        hint = f"`{made}` makes it. {'' if fetched else error.hint or ''}".strip()
        return RevisionError(f"there is no branch {name!r}", hint=hint)
    return RevisionError(
        f"{name!r} is commit {short(commit)}, not a branch",
        hint=f"Go there with `memitvc switch --detach {name}`, or start a branch: `memitvc switch -c NAME {name}`.",
    )
