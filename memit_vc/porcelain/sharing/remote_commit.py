"""commits/<id>.json of a remote: a commit, the facts of its patches, their constraints, its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memit_vc.errors import IntegrityError, RemoteError, UsageError
from memit_vc.objects import (
    BlobId,
    Commit,
    CommitId,
    Fact,
    FactId,
    JsonValue,
    PatchId,
    canonical_json,
    is_sha256,
    root_commit,
    short,
)
from memit_vc.porcelain.history.scores_at_commit import HANDED_ON, handed_on_to
from memit_vc.porcelain.sharing.bundle import parse_commit, parse_fact
from memit_vc.porcelain.state import LiveState
from memit_vc.remote.strict_json import parsed

if TYPE_CHECKING:
    from memit_vc.repository import Repository

__all__ = ["MAX_RECORD", "RemoteCommit"]

MAX_RECORD = 1 << 26
"""Bytes: a batch of ten thousand facts with their probes and scores has some 40 MB."""

_HINT = "Nothing was stored. The remote is damaged or was made to mislead."
_FIELDS = {"commit", "facts", "patches", "scores"}
_OPTIONAL = {HANDED_ON}


@dataclass(frozen=True)
class RemoteCommit:
    """`patches` maps each patch that supplies the commit's columns to its constraints, where there are any.

    `scores` are what `commit` measured, before and after, as `show` prints them; None where nothing was. `handed_on`
    are the scores that a commit in the place of others has of them, by fact.
    """

    commit: Commit
    facts: tuple[Fact, ...]
    patches: Mapping[PatchId, BlobId | None]
    scores: Mapping[str, Any] | None
    handed_on: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, repository: Repository, id: CommitId, *, constraints: bool) -> RemoteCommit:  # noqa: A002
        """As the repository has it. Without `constraints` their names are left out with them."""
        commit = repository.commit(id)
        wanted = sorted({*commit.patches, *LiveState(repository, commit.adds).selection})
        patches: dict[PatchId, BlobId | None] = {}
        facts: dict[FactId, None] = {}
        for patch in wanted:
            known = repository.patch(patch)
            kept = known.constraints if constraints and known.constraints is not None else None
            patches[patch] = kept if kept is not None and repository.blobs.has(kept) else None
            facts |= dict.fromkeys(column.fact for column in known.header.columns)
        rows = repository.facts(list(facts))
        state = LiveState.at(repository, id).id
        stored = repository.evaluations(state, "commit").get(("commit", id))
        scores = stored if isinstance(stored, Mapping) else None
        return cls(commit, tuple(rows[fact] for fact in facts), patches, scores, handed_on_to(repository, id))

    def objects(self, repository: Repository) -> set[BlobId]:
        """Every blob that this commit needs at the other end."""
        needed = {self.commit.provenance, *self.patches.values()}
        for patch in self.patches:
            needed |= {BlobId(patch), repository.patch(patch).header.provenance}
        return {blob for blob in needed if blob is not None}

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
    def decode(cls, data: bytes, id: CommitId, where: str) -> RemoteCommit:  # noqa: A002
        """IntegrityError for anything that `encode` does not write, or for another commit than `id`.

        RemoteError for a commit format of the future.
        """
        name = f"{where}: commit {short(id)}"
        try:
            record = parsed(data)
            canonical = isinstance(record, dict) and canonical_json(record) == data
        except (ValueError, TypeError, RecursionError) as error:
            raise IntegrityError(f"{name} is not JSON: {error}", hint=_HINT) from error
        if not canonical or record.keys() - _OPTIONAL != _FIELDS or not isinstance(record["facts"], list):
            raise IntegrityError(f"{name} is not as memit-vc writes it", hint=_HINT)
        try:
            commit = parse_commit(record["commit"], name)
        except UsageError as error:
            raise RemoteError(error.message, hint=error.hint) from error
        if commit.id != id:
            raise IntegrityError(f"{name} is another commit, {short(commit.id)}", hint=_HINT)
        if (made_root := not commit.parents) != (commit.kind == "root") or (
            made_root and commit != root_commit(commit.base, commit.message)
        ):
            raise IntegrityError(f"{name} is a root with more than a message, or has no parents", hint=_HINT)
        facts = tuple(parse_fact(each, f"{name}: fact {n}") for n, each in enumerate(record["facts"], 1))
        patches, scores = record["patches"], record["scores"]
        named = isinstance(patches, dict) and all(
            is_sha256(patch) and (blob is None or is_sha256(blob)) for patch, blob in patches.items()
        )
        if not named or not set(commit.patches) <= patches.keys():
            raise IntegrityError(f"{name}: its patches are not named as they should be", hint=_HINT)
        handed = record.get(HANDED_ON)
        if not (scores is None or _are_scores(scores)) or not (HANDED_ON not in record or _are_handed_on(handed)):
            raise IntegrityError(f"{name}: its scores are not understood", hint=_HINT)
        return cls(commit, facts, patches, scores, handed)


def _are_scores(record: object) -> bool:
    return isinstance(record, dict) and record.keys() == {"before", "after"} and all(map(_is_side, record.values()))


def _is_side(side: object) -> bool:
    """As `Measured.to_json` writes it."""
    return (
        isinstance(side, dict)
        and side.keys() == {"facts", "total", "perplexity", "probe"}
        and isinstance(side["probe"], str)
        and _is_number(side["perplexity"])
        and _are_by_fact(side["facts"])
        and _are_numbers(side["total"])
    )


def _are_handed_on(record: object) -> bool:
    """As `scores_at_commit.handed_on` writes it."""
    return isinstance(record, dict) and record.keys() == {"before", "after"} and all(map(_are_by_fact, record.values()))


def _are_by_fact(facts: object) -> bool:
    return isinstance(facts, dict) and all(is_sha256(fact) and _are_numbers(each) for fact, each in facts.items())


def _are_numbers(scores: object) -> bool:
    return isinstance(scores, dict) and all(map(_is_number, scores.values()))


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300)
