"""How a commit is made: drafted from a change of state, stored with its blobs and rows, and HEAD moved onto it.

Every verb that changes the history ends here. `record` is the first to write, and writes everything or nothing.
"""

from __future__ import annotations

import getpass
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from memit_vc.foreign.text import one_line
from memit_vc.objects import (
    BlobId,
    Commit,
    CommitId,
    Fact,
    Head,
    JsonValue,
    Patch,
    PatchId,
    RefUpdate,
    StateId,
    utc_now,
)
from memit_vc.vcs.state import Change, State, apply

if TYPE_CHECKING:
    from memit_vc.repository import Repository
    from memit_vc.store.publish import Evaluation
    from memit_vc.vcs.contradictions import Contradiction


Kind: TypeAlias = Literal["commit", "import", "revert", "squash", "merge", "cherry-pick", "rebase"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a verb. `id` is the commit that it made (of several the newest), or HEAD's if it made none.

    `added` and `removed` count columns against HEAD's state before. `notes` are worth knowing, `warnings` need a look.
    A verb with more results makes a subclass: `Reverted(**vars(record(…)), later=…)`.
    """

    id: CommitId
    branch: str | None
    state: StateId
    added: int = 0
    removed: int = 0
    contradictions: tuple[Contradiction, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def draft(
    repository: Repository,
    parents: Sequence[CommitId],
    change: Change,
    *,
    kind: Kind,
    message: str,
    patches: Collection[PatchId] | None = None,
    provenance: BlobId | None = None,
    details: Mapping[str, JsonValue] | None = None,
) -> Commit:
    """A commit by the present author that makes `change` on its first parent. Nothing is stored.

    `patches` None: those in this repository that supply the columns that come in.
    """
    if patches is None:
        patches = repository.selection(change.adds) if change.adds else ()
    return Commit(
        base=repository.base_id,
        parents=tuple(parents),
        adds=tuple(sorted(change.adds)),
        removes=tuple(sorted(change.removes)),
        patches=tuple(sorted(patches)),
        kind=kind,
        message=message,
        author=author_name(repository),
        time=utc_now(),
        provenance=provenance,
        details=details or {},
    )


def record(
    repository: Repository,
    head: Head,
    commits: Sequence[Commit],
    *,
    verb: str | None = None,
    description: str | None = None,
    patches: Sequence[Patch] = (),
    blobs: Iterable[bytes] = (),
    facts: Sequence[Fact] = (),
    evaluations: Sequence[Evaluation] = (),
    contradictions: Sequence[Contradiction] = (),
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Outcome:
    """Store `commits` (parents first) with their new blobs and rows, and move HEAD from `head` to the last one.

    Blobs come before rows; a crash in between leaves orphans, which `gc` removes. One operation, by default named after
    the last commit's kind and described by the only commit's subject. RefMovedError, with the history unchanged, if
    HEAD or its branch is no longer at `head`. The outcome has the given contradictions, notes and warnings.
    """
    tip = commits[-1]
    before = repository.state(head.commit)
    states: dict[CommitId, State] = {}
    for commit in commits:
        parent = commit.parents[0]
        known = states[parent] if parent in states else repository.state(parent)
        states[commit.id] = apply(known, Change.of(commit))
    after = states[tip.id]
    for blob in blobs:
        repository.blobs.put(blob)
    if description is None:
        description = tip.subject if len(commits) == 1 else f"{len(commits)} commits"
    move_head(
        repository,
        head,
        tip.id,
        verb=verb or tip.kind,
        description=description,
        commits=commits,
        patches=patches,
        facts=facts,
        evaluations=evaluations,
    )
    # a failure to read would now be reported of a commit that was made, so nothing is read from here on
    return Outcome(
        id=tip.id,
        branch=head.branch,
        state=repository.state_id(after),
        added=len(after - before),
        removed=len(before - after),
        contradictions=tuple(contradictions),
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def move_head(
    repository: Repository,
    head: Head,
    new: CommitId,
    *,
    verb: str,
    description: str,
    commits: Sequence[Commit] = (),
    patches: Sequence[Patch] = (),
    facts: Sequence[Fact] = (),
    evaluations: Sequence[Evaluation] = (),
) -> None:
    """Move the branch that HEAD is on, or a detached HEAD itself, by compare-and-swap. RefMovedError."""
    detached = head.branch is None
    repository.publish(
        verb=verb,
        description=description,
        commits=commits,
        patches=patches,
        facts=facts,
        evaluations=evaluations,
        refs=() if detached else [RefUpdate(f"heads/{head.branch}", head.commit, new)],
        head=new if detached else None,
        head_was=head.commit if detached else None,
    )


def author_name(repository: Repository) -> str:
    """`[user] author` of config.toml, else the login name."""
    if repository.config.author:
        return one_line(repository.config.author)  # a reader refuses others
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a user id without a name
        return "unknown"
