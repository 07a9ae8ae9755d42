"""`log`: commits and the names that point at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memit_vc.objects import Commit, CommitId, JsonValue
from memit_vc.vcs.revisions import split_range

if TYPE_CHECKING:
    from memit_vc.repository import Repository


@dataclass(frozen=True)
class LogEntry:
    """One line of the log. `refs` are the names that point here, the checked-out branch as "HEAD -> name"."""

    id: CommitId
    commit: Commit
    parents: tuple[CommitId, ...]
    refs: tuple[str, ...]
    added: int
    removed: int

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "id": self.id,
            "parents": list(self.parents),
            "refs": list(self.refs),
            "kind": self.commit.kind,
            "message": self.commit.message,
            "author": self.commit.author,
            "time": self.commit.time or None,  # a root has none
            "columns_added": self.added,
            "columns_removed": self.removed,
        }


def log(
    repository: Repository, revisions: Sequence[str] = (), *, everything: bool = False, limit: int | None = None
) -> list[LogEntry]:
    """Commits reachable from `revisions` (default HEAD; with `everything` all refs), newest first.

    "A..B" stands for B without the commits that A reaches.
    """
    tips: list[CommitId] = []
    known: set[CommitId] = set()
    for revision in revisions:
        ends = split_range(revision)
        if ends is not None:
            known |= {commit.id for commit in repository.log([repository.resolve(ends[0])])}
        tips.append(repository.resolve(revision if ends is None else ends[1]))
    tips = tips or [repository.head().commit]
    if everything:
        tips = [*tips, *repository.refs().values()]
    names = _names(repository)
    tips = list(dict.fromkeys(tips))
    found = repository.log(tips, limit=None if known else limit)
    return [_entry(commit, names) for commit in found if commit.id not in known][:limit]


def _names(repository: Repository) -> dict[CommitId, list[str]]:
    """The names that point at each commit, the checked-out branch (or HEAD itself) first."""
    head = repository.head()
    found: dict[CommitId, list[str]] = {}
    if head.branch is None:
        found[head.commit] = ["HEAD"]
    for ref, target in sorted(repository.refs().items()):
        kind, _, name = ref.partition("/")
        names = found.setdefault(target, [])
        if kind == "heads" and name == head.branch:
            names.insert(0, f"HEAD -> {name}")
        else:
            names.append(f"tag: {name}" if kind == "tags" else name)
    return found


def _entry(commit: Commit, names: Mapping[CommitId, Sequence[str]]) -> LogEntry:
    refs = tuple(names.get(commit.id, ()))
    return LogEntry(commit.id, commit, commit.parents, refs, len(commit.adds), len(commit.removes))


def entry_of(repository: Repository, commit: Commit) -> LogEntry:
    """One commit as the log shows it."""
    return _entry(commit, _names(repository))
