"""`tag`: names that stay where they are."""

from __future__ import annotations

from dataclasses import dataclass

from memit_vc.errors import MemitVCError, RevisionError
from memit_vc.objects import CommitId, RefUpdate, short
from memit_vc.repository import Repository
from memit_vc.vcs.refnames import check_one_meaning, check_ref_name


@dataclass(frozen=True)
class Tag:
    name: str
    commit: CommitId
    subject: str


def tags(repository: Repository) -> list[Tag]:
    """Every tag, by name."""
    found = {ref.removeprefix("tags/"): commit for ref, commit in repository.refs("tags/").items()}
    commits = repository.commits(set(found.values()))
    return [Tag(name, commit, commits[commit].subject) for name, commit in found.items()]


def create_tag(repository: Repository, name: str, revision: str = "HEAD") -> Tag:
    """A new tag at `revision`. MemitVCError if the name is taken: a tag does not move."""
    ref, commit = f"tags/{name}", repository.resolve(revision)
    check_ref_name(ref)
    taken = repository.refs().get(ref)
    if taken is not None:
        raise MemitVCError(
            f"tag {name!r} exists already, at {short(taken)}",
            hint=f"Delete it first, because tags do not move: memitvc tag -d {name}",
        )
    check_one_meaning(ref, repository.refs())
    repository.publish(verb="tag", description=f"tag {name} at {short(commit)}", refs=[RefUpdate(ref, None, commit)])
    return Tag(name, commit, repository.commit(commit).subject)


def delete_tag(repository: Repository, name: str) -> Tag:
    """Delete a tag. RevisionError if there is none."""
    found = next((tag for tag in tags(repository) if tag.name == name), None)
    if found is None:
        raise RevisionError(f"there is no tag {name!r}", hint="Name another; `memitvc tag` lists the tags.")
    repository.publish(
        verb="tag",
        description=f"delete tag {name} (was {short(found.commit)})",
        refs=[RefUpdate(f"tags/{name}", found.commit, None)],
    )
    return found
