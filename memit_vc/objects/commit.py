"""A commit: parents, change of state, message. Its id hashes its canonical JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from memit_vc.objects.ids import BaseId, BlobId, ColumnId, CommitId, JsonValue, PatchId, canonical_json, digest

COMMIT_FORMAT = 1
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One node of the history.

    `adds` and `removes` are the change of state against the first parent, as sorted columns.
    `patches` are the patches whose columns this commit brings in (new ones, or ones put back).
    `kind` is the verb that made it: root, commit, import, revert, squash, merge, cherry-pick, rebase.
    `details` are that verb's own notes (for a revert: which commits); JSON, shown by `show`.
    """

    base: BaseId
    parents: tuple[CommitId, ...]
    adds: tuple[ColumnId, ...]
    removes: tuple[ColumnId, ...]
    patches: tuple[PatchId, ...]
    kind: str
    message: str
    author: str
    time: str
    """UTC, ISO 8601 to the second, e.g. 2026-01-31T12:00:00Z; empty for a root."""
    provenance: BlobId | None = None
    details: Mapping[str, JsonValue] = field(default_factory=dict)

    @cached_property
    def id(self) -> CommitId:
        return CommitId(digest("commit", canonical_json(self.to_json())))

    @property
    def subject(self) -> str:
        """First line of the message."""
        return self.message.split("\n", 1)[0]

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "format": COMMIT_FORMAT,
            "base": self.base,
            "parents": list(self.parents),
            "adds": sorted(self.adds),
            "removes": sorted(self.removes),
            "patches": sorted(self.patches),
            "kind": self.kind,
            "message": self.message,
            "author": self.author,
            "time": self.time,
            "provenance": self.provenance,
            "details": dict(self.details),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Commit:
        """Inverse of `to_json`; KeyError or TypeError on a record of another shape."""
        columns: dict[str, Any] = {name: tuple(record[name]) for name in ("parents", "adds", "removes", "patches")}
        values = ("base", "kind", "message", "author", "time", "provenance", "details")
        return cls(**columns, **{name: record[name] for name in values})


def root_commit(base: BaseId, description: str) -> Commit:
    """The untouched base. It has no time and no author, so that two repositories on one base share their root."""
    return Commit(
        base=base, parents=(), adds=(), removes=(), patches=(), kind="root", message=description, author="", time=""
    )


def utc_now() -> str:
    """ISO 8601 to the second, UTC: 2026-01-31T12:00:00Z."""
    return datetime.now(timezone.utc).strftime(_TIME)


def is_time(text: str) -> bool:
    """Whether a text is a time as `utc_now` writes it."""
    try:
        return datetime.strptime(text, _TIME).strftime(_TIME) == text
    except ValueError:
        return False
