"""Commits on their way out: the record of each as `push` and `export --patch` write it, and the objects it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from memit_vc.objects import BlobId, CommitId, FactId, PatchId
from memit_vc.objects.commit_record import HANDED_ON
from memit_vc.porcelain.sharing.remote_commit import RemoteCommit
from memit_vc.repository import Repository

_TOGETHER = 256
"""Commits that are read with one set of queries; their facts and scores are in memory together."""


class Outgoing(NamedTuple):
    """A record, and every blob that its commit needs at the other end."""

    record: RemoteCommit
    objects: frozenset[BlobId]


def outgoing(repository: Repository, commits: Sequence[CommitId], *, constraints: bool) -> Iterator[Outgoing]:
    """The commits in their order. Without `constraints` their names are left out, too."""
    for start in range(0, len(commits), _TOGETHER):
        yield from _together(repository, commits[start : start + _TOGETHER], constraints)


def _together(repository: Repository, ids: Sequence[CommitId], constraints: bool) -> Iterator[Outgoing]:
    commits = repository.commits(ids)
    holding = repository.selections({id_: commit.adds for id_, commit in commits.items()})
    wanted = {id_: sorted({*commit.patches, *holding[id_]}) for id_, commit in commits.items()}
    patches = repository.patches({patch for listed in wanted.values() for patch in listed})
    facts = repository.facts({column.fact for patch in patches.values() for column in patch.header.columns})
    measured = repository.evaluations_of(ids, "commit")
    handed = repository.evaluations_of(ids, HANDED_ON)
    kept: dict[PatchId, BlobId | None] = {
        patch: known.constraints
        if constraints and known.constraints is not None and repository.blobs.has(known.constraints)
        else None
        for patch, known in patches.items()
    }
    for id_, commit in commits.items():
        held = [patches[patch] for patch in wanted[id_]]
        named: dict[FactId, None] = dict.fromkeys(column.fact for patch in held for column in patch.header.columns)
        scores, brought = measured.get(id_), handed.get(id_)
        record = RemoteCommit(
            commit,
            tuple(facts[fact] for fact in named),
            {patch.id: kept[patch.id] for patch in held},
            scores if isinstance(scores, Mapping) else None,
            brought if isinstance(brought, Mapping) else None,
        )
        blobs = {commit.provenance, *record.patches.values()}
        for patch in held:
            blobs |= {BlobId(patch.id), patch.header.provenance}
        yield Outgoing(record, frozenset(blob for blob in blobs if blob is not None))
