"""Where a history stands: HEAD and the moves of refs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memit_vc.objects.ids import CommitId


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


@dataclass(frozen=True, slots=True)
class Moved:
    """One ref, or HEAD, that moved: commit ids, for HEAD also "heads/<branch>"; None means absent."""

    name: str
    before: str | None
    after: str | None


def moves(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Moved, ...]:
    """The refs that differ, by name."""
    return tuple(
        Moved(name, before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )
