"""What the journal's lines add up to: which commits there are, where refs and HEAD stand, the operation log.

The keys of a line, each only if it is needed (docs/format.md, "Journal"):
commits, constraints, operation, undone, kept, dropped, gone, forgotten, and `whole` in the line that starts a journal
anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memit_vc.objects import BlobId, CommitId, JsonValue, PatchId
from memit_vc.store.journal import Entry
from memit_vc.store.records import OperationRow


@dataclass
class Replayed:
    """`commits` maps each commit, in the order of storing, to the object that holds its record, `kept` each kept patch.

    `named` are all records that any line names, also those of commits that `gc` has removed since.
    """

    commits: dict[CommitId, BlobId] = field(default_factory=dict)
    constraints: dict[PatchId, BlobId] = field(default_factory=dict)
    kept: dict[PatchId, BlobId] = field(default_factory=dict)
    refs: dict[str, CommitId] = field(default_factory=dict)
    head: str = ""
    operations: dict[int, OperationRow] = field(default_factory=dict)
    last_operation: int = 0
    named: set[BlobId] = field(default_factory=set)
    gaps: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Replayed:
        """A line that cannot be followed is passed over and named in `gaps`."""
        found = cls()
        before: Entry | None = None
        for entry in entries:
            starts = "whole" in entry.body or (before is None and entry.number == 1)
            if not starts and (before is None or before.digest != entry.previous):
                found.gaps.append(f"what comes before line {entry.number} is missing or damaged")
            before = entry
            try:
                found._follow(entry.body)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                found.gaps.append(f"line {entry.number} cannot be followed: {error}")
        return found

    def _follow(self, body: Mapping[str, Any]) -> None:
        if "whole" in body:
            self.__dict__.update(vars(Replayed(gaps=self.gaps, named=self.named)))
            self._take_over(body["whole"])
        for commit, record in body.get("commits", ()):
            self.commits[commit] = record
            self.named.add(record)
        self.constraints.update(body.get("constraints", {}))
        for patch, record in body.get("kept", {}).items():
            self.kept.pop(patch, None)
            self.kept[patch] = record
            self.named.add(record)
        if "operation" in body:
            self._operate(body["operation"])
        for number, by in body.get("undone", ()):
            if number in self.operations:
                self.operations[number] = replace(self.operations[number], undone_by=by)
        for patch in body.get("dropped", ()):
            self.kept.pop(patch, None)
        for commit in body.get("gone", ()):
            self.commits.pop(commit, None)
        for number in [n for n in self.operations if n <= body.get("forgotten", 0)]:
            del self.operations[number]

    def _operate(self, operation: Mapping[str, Any]) -> None:
        refs, head = dict(self.refs), self.head
        for moved in operation["moved"]:
            if moved["name"] == "HEAD":
                self.head = moved["after"]
            elif moved["after"] is None:
                self.refs.pop(moved["name"], None)
            else:
                self.refs[moved["name"]] = moved["after"]
        about = (operation["time"], operation["verb"], operation["description"])
        self.last_operation = int(operation["id"])
        self.refs = dict(sorted(self.refs.items()))
        self.operations[self.last_operation] = OperationRow(
            self.last_operation, *about, dict[str, str](refs), dict[str, str](self.refs), head, self.head
        )

    def _take_over(self, whole: Mapping[str, Any]) -> None:
        self.refs, self.head, self.last_operation = dict(whole["refs"]), whole["head"], whole["last_operation"]
        for each in whole["operations"]:
            self.operations[each["id"]] = OperationRow(**each)


def whole(found: Replayed) -> dict[str, JsonValue]:
    """The body of a line that says all that `found` says: with it a journal can start anew."""
    return {
        "commits": [[commit, record] for commit, record in found.commits.items()],
        "constraints": {str(patch): blob for patch, blob in found.constraints.items()},
        "kept": {str(patch): record for patch, record in found.kept.items()},
        "whole": {
            "refs": dict(found.refs),
            "head": found.head,
            "last_operation": found.last_operation,
            "operations": [each.to_row() for each in found.operations.values()],
        },
    }
