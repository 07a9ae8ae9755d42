"""`status`: where HEAD is, how much is live on it, what is ready."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memit_vc.objects import CommitId, Head, StateId
from memit_vc.porcelain.state import LiveState
from memit_vc.vcs.graph import ancestors

if TYPE_CHECKING:
    from memit_vc.repository import Repository


@dataclass(frozen=True)
class Followed:
    """A remote's branch of the same name, as last fetched or pushed: how many commits each side has alone."""

    name: str
    ahead: int
    behind: int


@dataclass(frozen=True)
class Status:
    """Where HEAD is and what is ready. `followed` are the remotes' branches of the same name."""

    base: str
    revision: str | None
    base_id: str
    branch: str | None
    commit: CommitId
    subject: str
    state: StateId
    live_facts: int
    live_columns: int
    live_adapters: int
    load: float
    """Live facts per input of the edited layers: how full they are."""
    commits: int
    statistics: int
    kept: tuple[str, ...]
    followed: tuple[Followed, ...] = ()
    base_is_here: bool = True
    """Whether the directory of a local base is there; its content is not looked at."""


def status(repository: Repository) -> Status:
    """Where HEAD is, how much is live on it, what is ready."""
    head = repository.head()
    state = LiveState.at(repository, head.commit)
    return Status(
        base=repository.config.base,
        revision=repository.config.revision,
        base_id=repository.base_id,
        branch=head.branch,
        commit=head.commit,
        subject=repository.commit(head.commit).subject,
        state=state.id,
        live_facts=len(state.live),
        live_columns=len(state.columns),
        live_adapters=len(state.adapters.columns),
        load=len(state.live) / _inputs(state),
        commits=len(repository.log([head.commit])) - 1,
        statistics=len(repository.statistics()),
        kept=tuple(repository.kept_patches()),
        followed=tuple(_followed(repository, head)),
        base_is_here=repository.config.revision is not None or Path(repository.config.base).is_dir(),
    )


def _inputs(state: LiveState) -> int:
    """Of the widest layer that facts are in. The experts of a layer count together, also those that no fact changes."""
    inputs: Counter[int] = Counter()
    for weight in state.repository.fact_weights():
        inputs[weight.layer] += weight.d_in
    return max((inputs[weight.layer] for weight in state.of_facts.touched), default=1)


def _followed(repository: Repository, head: Head) -> Iterator[Followed]:
    if head.branch is None:
        return
    mine = ancestors([head.commit], repository.parents)
    for ref, commit in repository.refs("remotes/").items():
        remote, _, branch = ref.removeprefix("remotes/").partition("/")
        if branch == head.branch:
            theirs = ancestors([commit], repository.parents)
            yield Followed(f"{remote}/{branch}", len(mine - theirs), len(theirs - mine))
