"""What goes in and out of the repository beside the objects: values, no behaviour."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from memit_vc.objects import CommitId, JsonValue, Moved, Patch, canonical_json, digest, moves


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One command's change of refs. `head_*` is "heads/<branch>", or a commit id where HEAD was detached.

    `undone_by` is the operation that took it back.
    """

    id: int
    time: str
    verb: str
    description: str
    refs_before: dict[str, str]
    refs_after: dict[str, str]
    head_before: str
    head_after: str
    undone_by: int | None = None

    @property
    def moved(self) -> tuple[Moved, ...]:
        """HEAD first, then the refs by name."""
        heads = moves({"HEAD": self.head_before or None}, {"HEAD": self.head_after})
        return (*heads, *moves(self.refs_before, self.refs_after))

    @property
    def digest(self) -> str:
        """Of all fields: a flipped bit in the log would be shown as the truth, and `undo` would act on it."""
        return digest("operation", canonical_json(self.to_row()))

    def to_row(self) -> dict[str, JsonValue]:
        """Every field under its name."""
        return asdict(self)

    def to_json(self) -> dict[str, JsonValue]:
        """What the operation did, without the refs that it left alone."""
        return {
            "id": self.id,
            "time": self.time,
            "verb": self.verb,
            "description": self.description,
            "undone_by": self.undone_by,
            "moved": [asdict(each) for each in self.moved],
        }


@dataclass(frozen=True, slots=True)
class KeptPatch:
    """A patch that was computed on `parent` while the branch moved away; it waits to be committed on the new tip."""

    patch: Patch
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
        "cache",
        "commit",
        "column",
        "database",
        "evaluation",
        "fact",
        "head",
        "journal",
        "lost commit",
        "operation",
        "patch",
        "ref",
        "statistics",
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
