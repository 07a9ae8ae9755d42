"""The read verbs: log, show, status, facts. They load neither torch nor numpy, so that they answer at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memit_vc.objects import ColumnId, Commit, CommitId, Fact, JsonValue, StateId
from memit_vc.porcelain.history.scores_at_commit import came_in
from memit_vc.vcs.graph import ancestors
from memit_vc.vcs.revisions import split_range

if TYPE_CHECKING:
    from memit_vc.objects import Head
    from memit_vc.repository import LiveFact, Repository

__all__ = ["Followed", "LogEntry", "ShownCommit", "ShownFact", "Status", "facts", "log", "show", "status"]


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
            "time": self.commit.time,
            "columns_added": self.added,
            "columns_removed": self.removed,
        }


@dataclass(frozen=True)
class ShownFact:
    """A fact of a commit with its scores before and after, where they were measured."""

    fact: Fact
    role: str
    before: Mapping[str, float | None] | None
    after: Mapping[str, float | None] | None


@dataclass(frozen=True)
class ShownCommit:
    """Everything that `show` says of a commit. `removed` are the facts that it took out."""

    entry: LogEntry
    state: StateId
    added: tuple[ShownFact, ...]
    removed: tuple[Fact, ...]
    scores: Mapping[str, Any] | None
    provenance: Mapping[str, Any] | None
    live: bool
    """Its columns are all in HEAD's state."""

    def to_json(self) -> dict[str, JsonValue]:
        return {
            **self.entry.to_json(),
            "state": self.state,
            "live": self.live,
            "facts": [
                {
                    **f.fact.to_json(),
                    "id": f.fact.id,
                    "role": f.role,
                    "before": _plain(f.before),
                    "after": _plain(f.after),
                }
                for f in self.added
            ],
            "removed": [{**fact.to_json(), "id": fact.id} for fact in self.removed],
            "scores": None if self.scores is None else dict(self.scores),
            "details": dict(self.entry.commit.details),
            "provenance": None if self.provenance is None else dict(self.provenance),
        }


@dataclass(frozen=True)
class Followed:
    """A remote's branch of the same name, as it was when it was last heard of: how many commits each side has alone."""

    name: str
    ahead: int
    behind: int


@dataclass(frozen=True)
class Status:
    """Where HEAD is and what is ready. `followed` are the branches of that name on the remotes."""

    base: str
    revision: str | None
    base_id: str
    branch: str | None
    commit: CommitId
    subject: str
    state: StateId
    live_facts: int
    live_columns: int
    commits: int
    statistics: int
    kept: tuple[str, ...]
    followed: tuple[Followed, ...] = ()
    base_is_here: bool = True
    """Whether the directory of a local base is there; its content is not looked at."""

    def to_json(self) -> dict[str, JsonValue]:
        return {**vars(self), "kept": list(self.kept), "followed": [dict(vars(each)) for each in self.followed]}


def log(
    repository: Repository, revisions: Sequence[str] = (), *, everything: bool = False, limit: int | None = None
) -> list[LogEntry]:
    """Commits reachable from `revisions` (default HEAD; with `everything` all refs), newest first.

    "A..B" stands for B, and leaves out whatever A reaches.
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
    return [_entry(commit, names) for commit in [c for c in found if c.id not in known][:limit]]


def _names(repository: Repository) -> dict[CommitId, list[str]]:
    """What points at each commit, the checked-out branch (or HEAD itself) first."""
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
    return LogEntry(
        id=commit.id,
        commit=commit,
        parents=commit.parents,
        refs=tuple(names.get(commit.id, ())),
        added=len(commit.adds),
        removed=len(commit.removes),
    )


def show(repository: Repository, revision: str = "HEAD") -> ShownCommit:
    """One commit with its facts, their scores and its provenance."""
    commit = repository.commit(repository.resolve(revision))
    state = repository.state_id(repository.state(commit.id))
    stored = repository.evaluations(state, "commit").get(("commit", commit.id))
    scores: dict[str, Any] | None = dict(stored) if isinstance(stored, Mapping) else None
    provenance = None
    if commit.provenance is not None and repository.blobs.has(commit.provenance):
        provenance = json.loads(repository.blobs.read(commit.provenance))
    head_state = repository.state(repository.head().commit)
    came = came_in(repository, [commit.id])[commit.id]
    return ShownCommit(
        entry=_entry(commit, _names(repository)),
        state=state,
        added=tuple(
            ShownFact(
                fact,
                role,
                *came.get(fact.id, (None, None)),
            )
            for fact, role in _facts_of(repository, commit.adds)
        ),
        removed=tuple(fact for fact, role in _facts_of(repository, commit.removes) if role == "edit"),
        scores=None
        if scores is None
        else {
            side: {name: value for name, value in scores[side].items() if name != "facts"}
            for side in ("before", "after")
        },
        provenance=provenance,
        live=set(commit.adds) <= head_state,
    )


def _facts_of(repository: Repository, columns: Sequence[ColumnId]) -> list[tuple[Fact, str]]:
    """Facts of some columns in the order of their patches."""
    found: list[tuple[Fact, str]] = []
    for patch, positions in repository.selection(columns).items():
        described = repository.patch(patch).header.columns
        found += [(repository.fact(described[p].fact), described[p].role) for p in positions or range(len(described))]
    return found


def status(repository: Repository) -> Status:
    """Where HEAD is, how much is live on it, what is ready."""
    head = repository.head()
    columns = repository.state(head.commit)
    return Status(
        base=repository.config.base,
        revision=repository.config.revision,
        base_id=repository.base_id,
        branch=head.branch,
        commit=head.commit,
        subject=repository.commit(head.commit).subject,
        state=repository.state_id(columns),
        live_facts=len(repository.live_facts(head.commit)),
        live_columns=len(columns),
        commits=len(repository.log([head.commit])) - 1,
        statistics=len(repository.statistics()),
        kept=tuple(repository.kept_patches()),
        followed=tuple(_followed(repository, head)),
        base_is_here=repository.config.revision is not None or Path(repository.config.base).is_dir(),
    )


def _followed(repository: Repository, head: Head) -> Iterator[Followed]:
    if head.branch is None:
        return
    mine = ancestors([head.commit], repository.parents)
    for ref, commit in repository.refs("remotes/").items():
        remote, _, branch = ref.removeprefix("remotes/").partition("/")
        if branch == head.branch:
            theirs = ancestors([commit], repository.parents)
            yield Followed(f"{remote}/{branch}", len(mine - theirs), len(theirs - mine))


def facts(repository: Repository, revision: str = "HEAD") -> list[LiveFact]:
    """The facts that are in the model at a revision, in the order in which they came in."""
    return repository.live_facts(repository.resolve(revision))


def _plain(scores: Mapping[str, float | None] | None) -> JsonValue:
    return None if scores is None else dict(scores)
