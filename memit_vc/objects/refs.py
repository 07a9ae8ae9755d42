"""Where a history stands: HEAD and the moves of refs."""

from __future__ import annotations

from dataclasses import dataclass

from memit_vc.objects.ids import CommitId

__all__ = ["Head", "RefUpdate"]


@dataclass(frozen=True, slots=True)
class Head:
    """Where HEAD is: on a branch ("main"), or detached on a commit when `branch` is None."""

    branch: str | None
    commit: CommitId


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """Move `name` ("heads/main", "tags/v1", "remotes/origin/main") from `old` to `new`.

    None means absent: `old` None creates, `new` None deletes. The move happens only if the ref is still at `old`.
    """

    name: str
    old: CommitId | None
    new: CommitId | None
