"""`facts`: the facts that are in the model at a revision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memit_vc.porcelain.state import LiveState

if TYPE_CHECKING:
    from memit_vc.repository import Repository
    from memit_vc.vcs.facts import LiveFact


def facts(repository: Repository, revision: str = "HEAD") -> list[LiveFact]:
    """The facts that are in the model at a revision, in the order in which they came in."""
    return LiveState.at(repository, repository.resolve(revision)).live
