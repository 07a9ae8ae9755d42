"""A commit with all that it needs to be understood elsewhere: the one form in which a history is written down.

It is an object of the repository, `commits/<id>.json` of a remote and a file in a patch file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memit_vc.objects.commit import Commit
from memit_vc.objects.fact import Fact
from memit_vc.objects.ids import BlobId, CommitId, JsonValue, PatchId, canonical_json

HANDED_ON = "brought"
"""The kind of evaluation that holds the scores of the commits that a commit replaces. The word is that of the stored
format (docs/format.md).
"""


@dataclass(frozen=True)
class CommitRecord:
    """`patches` maps each patch that supplies the commit's columns to its constraints, if it has any.

    `scores` are what `commit` measured, before and after, as `show` prints them; None if it measured nothing.
    `handed_on` are the scores, by fact, that a commit has from the commits that it replaced.
    """

    commit: Commit
    facts: tuple[Fact, ...]
    patches: Mapping[PatchId, BlobId | None]
    scores: Mapping[str, Any] | None
    handed_on: Mapping[str, Any] | None = None

    def encode(self) -> bytes:
        patches: dict[str, JsonValue] = {str(patch): blob for patch, blob in self.patches.items()}
        record: dict[str, JsonValue] = {
            "commit": self.commit.to_json(),
            "facts": [fact.to_json() for fact in self.facts],
            "patches": patches,
            "scores": None if self.scores is None else dict(self.scores),
        }
        if self.handed_on is not None:
            record[HANDED_ON] = dict(self.handed_on)
        return canonical_json(record)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> CommitRecord:
        """Inverse of `encode`, for bytes that this repository wrote; KeyError, TypeError, … on another shape."""
        return cls(
            Commit.from_json(record["commit"]),
            tuple(map(Fact.from_json, record["facts"])),
            dict(record["patches"]),
            record["scores"],
            record.get(HANDED_ON),
        )


@dataclass(frozen=True)
class KeptRecord:
    """A patch that waits for its branch, with what its commit will say."""

    patch: PatchId
    constraints: BlobId | None
    facts: tuple[Fact, ...]
    parent: CommitId
    message: str
    details: JsonValue
    time: str

    def encode(self) -> bytes:
        return canonical_json(
            {
                "details": self.details,
                "facts": [fact.to_json() for fact in self.facts],
                "kept": self.patch,
                "constraints": self.constraints,
                "message": self.message,
                "parent": self.parent,
                "time": self.time,
            }
        )

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> KeptRecord:
        """Inverse of `encode`, for bytes that this repository wrote; KeyError, TypeError, … on another shape."""
        return cls(
            record["kept"],
            record["constraints"],
            tuple(map(Fact.from_json, record["facts"])),
            record["parent"],
            record["message"],
            record["details"],
            record["time"],
        )
