"""`branch`: list, make, rename and delete branches."""

from __future__ import annotations

from dataclasses import dataclass

from memit_vc.errors import MemitVCError, RevisionError
from memit_vc.objects import CommitId, RefUpdate, short
from memit_vc.repository import Repository
from memit_vc.vcs.graph import is_ancestor
from memit_vc.vcs.refnames import check_one_meaning, check_ref_name


@dataclass(frozen=True)
class Branch:
    """One branch. `current` is the one that HEAD is on."""

    name: str
    commit: CommitId
    subject: str
    current: bool


def branches(repository: Repository) -> list[Branch]:
    """Every local branch, by name."""
    head = repository.head()
    found = {ref.removeprefix("heads/"): commit for ref, commit in repository.refs("heads/").items()}
    commits = repository.commits(set(found.values()))
    return [Branch(name, commit, commits[commit].subject, name == head.branch) for name, commit in found.items()]


def create_branch(repository: Repository, name: str, revision: str = "HEAD") -> Branch:
    """A new branch at `revision`; HEAD stays. MemitVCError if the name is taken."""
    commit = repository.resolve(revision)
    repository.publish(
        verb="branch", description=f"branch {name} at {short(commit)}", refs=[new_branch(repository, name, commit)]
    )
    return Branch(name, commit, repository.commit(commit).subject, False)


def new_branch(repository: Repository, name: str, commit: CommitId) -> RefUpdate:
    """The change that makes a branch. MemitVCError if the name is taken, UsageError if it is not a legal one."""
    ref = f"heads/{name}"
    check_ref_name(ref)
    taken = repository.refs().get(ref)
    if taken is not None:
        raise MemitVCError(
            f"branch {name!r} exists already, at {short(taken)}", hint=f"Go there with `memitvc switch {name}`."
        )
    check_one_meaning(ref, repository.refs())
    return RefUpdate(ref, None, commit)


def delete_branch(repository: Repository, name: str, *, force: bool = False) -> Branch:
    """Delete a branch; its commits stay until gc. MemitVCError for the current branch, and, without `force`, for one
    whose commits no other branch or tag has.
    """
    found = _find(repository, name)
    if found.current:
        raise MemitVCError(f"HEAD is on branch {name!r}", hint="Switch to another branch first.")
    others = {commit for ref, commit in repository.refs().items() if ref != f"heads/{name}"}
    others.add(repository.head().commit)
    if not force and not any(is_ancestor(found.commit, tip, repository.parents) for tip in others):
        raise MemitVCError(
            f"branch {name!r} has commits that no other branch or tag has",
            hint="Merge it first, or delete it anyway with -D; `memitvc undo` brings it back.",
        )
    repository.publish(
        verb="branch",
        description=f"delete branch {name} (was {short(found.commit)})",
        refs=[RefUpdate(f"heads/{name}", found.commit, None)],
    )
    return found


def rename_branch(repository: Repository, old: str | None, new: str) -> Branch:
    """Rename a branch (None: the current one); HEAD follows. MemitVCError if `new` is taken."""
    name = old or repository.head().branch
    if name is None:
        raise MemitVCError("HEAD is detached: there is no current branch", hint="Name the branch: -m OLD NEW")
    found = _find(repository, name)
    made = new_branch(repository, new, found.commit)
    repository.publish(
        verb="branch",
        description=f"rename branch {name} to {new}",
        refs=[made, RefUpdate(f"heads/{name}", found.commit, None)],
        head=f"heads/{new}" if found.current else None,
    )
    return Branch(new, found.commit, found.subject, found.current)


def _find(repository: Repository, name: str) -> Branch:
    found = next((branch for branch in branches(repository) if branch.name == name), None)
    if found is None:
        raise RevisionError(f"there is no branch {name!r}", hint="Name another; `memitvc branch` lists the branches.")
    return found
