"""What a revert says of itself in the log."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from memit_vc.objects import Commit, FactId, short

if TYPE_CHECKING:
    from memit_vc.repository import Repository

__all__ = ["revert_message"]


def revert_message(repository: Repository, commits: Sequence[Commit], facts: Collection[FactId], what: str) -> str:
    """The message for taking `commits` back, or of them only `facts`; `what` is a line for each, {} being its id.

    Short logs show the first line only: where single facts go, it is about them.
    """
    told = [repository.facts(facts)[fact] for fact in sorted(facts)]
    batch = f'"{commits[0].subject}"' if len(commits) == 1 else f"{len(commits)} commits"
    subjects = ", ".join(dict.fromkeys(fact.subject or fact.prompt for fact in told))
    return "\n\n".join(
        [f'Revert "{subjects}" of {batch}' if told else f"Revert {batch}"]
        + [f"Fact: {fact.prompt} → {fact.target} ({short(fact.id)})" for fact in told]
        + [what.format(commit.id) for commit in commits]
    )
