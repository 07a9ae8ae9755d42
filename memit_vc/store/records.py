"""What goes in and out of the repository beside the objects: values, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

from memit_vc.objects import BlobId, ColumnId, CommitId, JsonValue, PatchHeader, PatchId

__all__ = ["GcResult", "Head", "KeptPatch", "NewPatch", "OperationRow", "Problem", "RefUpdate", "utc_now"]


def utc_now() -> str:
    """ISO 8601 to the second, UTC: 2026-01-31T12:00:00Z."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Head:
    """Where HEAD is: on a branch ("main"), or detached on a commit when `branch` is None."""

    branch: str | None
    commit: CommitId


@dataclass(frozen=True, slots=True)
class NewPatch:
    """A patch as the repository knows it; its bytes are the blob `id`.

    `columns` has one id for each column of the header, but one in total for a dense patch, which cannot be split.
    `bounds` gives, per weight and column, max|left|·max|right| in units of the weight's grid (dense: max|entry|).
    """

    id: PatchId
    header: PatchHeader
    columns: tuple[ColumnId, ...]
    bounds: Mapping[str, tuple[float, ...]]
    constraints: BlobId | None = None


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """Move `name` ("heads/main", "tags/v1", "remotes/origin/main") from `old` to `new`.

    None means absent: `old` None creates, `new` None deletes. The move happens only if the ref is still at `old`.
    """

    name: str
    old: CommitId | None
    new: CommitId | None


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One command's change of refs. `head_*` is "heads/<branch>", or a commit id where HEAD was detached."""

    id: int
    time: str
    verb: str
    description: str
    refs_before: dict[str, str]
    refs_after: dict[str, str]
    head_before: str
    head_after: str
    undone_by: int | None = None
    argv: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class KeptPatch:
    """A patch that was computed on `parent` while the branch moved away; it waits to be committed on the new tip."""

    patch: NewPatch
    parent: CommitId
    message: str
    details: JsonValue
    time: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding of fsck: what kind of object, which one, what is wrong with it."""

    kind: Literal[
        "base",
        "blob",
        "commit",
        "column",
        "database",
        "evaluation",
        "fact",
        "format",
        "head",
        "operation",
        "patch",
        "ref",
    ]
    object: str
    message: str


@dataclass(frozen=True, slots=True)
class GcResult:
    """What gc removed, or with dry_run would remove; `bytes` counts all files."""

    blobs: int
    bytes: int
    commits: int
    operations: int
    temporary: int
    cached: int = 0
    """z of earlier searches."""
