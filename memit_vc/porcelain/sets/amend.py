"""`commit --amend`: replace HEAD's commit by one with another message or another batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from memit_vc.errors import MemitVCError
from memit_vc.objects import CommitId, short
from memit_vc.porcelain.history.scores_at_commit import scores_of
from memit_vc.porcelain.record import Outcome, record
from memit_vc.repository import Repository

_COMPUTED = ("commit", "rebase", "cherry-pick")


@dataclass(frozen=True, kw_only=True)
class Amended(Outcome):
    """The commit that replaced `old`. The state is the same."""

    old: CommitId
    subject: str


def amend_message(repository: Repository, message: str) -> Amended:
    """HEAD's commit with another message; author, time, patch and scores stay. MemitVCError for the base itself."""
    head = repository.head()
    commit = repository.commit(head.commit)
    if commit.kind == "root":
        raise MemitVCError("HEAD is the base itself, which has no message of yours", hint="Commit something first.")
    made = dataclasses.replace(commit, message=message)
    if made.id == commit.id:
        raise MemitVCError("nothing to amend: the message is the same", hint="Give another one with -m.")
    done = record(repository, head, [made], verb="amend", evaluations=scores_of(repository, commit.id, made.id))
    return Amended(**vars(done), old=commit.id, subject=made.subject)


def amended_parent(repository: Repository, tip: CommitId) -> CommitId:
    """The commit that the new batch goes onto. MemitVCError if the tip is not a batch of facts."""
    commit = repository.commit(tip)
    if commit.kind == "root":
        raise MemitVCError("there is nothing to amend: HEAD is the base itself", hint="Leave out --amend.")
    roles = repository.column_facts(commit.adds)  # a pick or an import may bring a revert or an adapter
    edits = commit.adds and all(pairs and all(role == "edit" for _, role in pairs) for pairs in roles.values())
    if commit.kind not in _COMPUTED or len(commit.parents) != 1 or not edits:
        raise MemitVCError(
            f"HEAD ({short(tip)}) is a {commit.kind}, not a batch of facts",
            hint="Undo it (memitvc undo), or change only its message (memitvc commit --amend -m MESSAGE).",
        )
    return commit.parents[0]
