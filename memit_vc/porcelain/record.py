"""How a new commit becomes the tip: the branch that HEAD is on moves, or HEAD itself where it is detached."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, TypedDict

from memit_vc.objects import CommitId, Head, RefUpdate

if TYPE_CHECKING:
    from memit_vc.repository import Repository

__all__ = ["Movement", "author_name", "head_update"]


class Movement(TypedDict, total=False):
    """Keyword arguments of `Repository.publish`."""

    refs: list[RefUpdate]
    head: str
    head_was: str


def head_update(head: Head, new: CommitId) -> Movement:
    """Move from `head` to `new` by compare-and-swap: of the branch, or of HEAD where it is detached."""
    if head.branch is None:
        return {"head": new, "head_was": head.commit}
    return {"refs": [RefUpdate(f"heads/{head.branch}", head.commit, new)]}


def author_name(repository: Repository) -> str:
    """`[user] author` of config.toml, else the login name."""
    if repository.config.author:
        return repository.config.author
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a user id without a name
        return "unknown"
