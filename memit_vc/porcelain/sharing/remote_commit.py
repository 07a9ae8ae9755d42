"""commits/<id>.json of a remote: a commit, the facts of its patches, their constraints, its scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from memit_vc.errors import IntegrityError, RemoteError, UsageError
from memit_vc.foreign.text import is_one_line
from memit_vc.objects import (
    Commit,
    CommitId,
    Fact,
    canonical_json,
    is_sha256,
    root_commit,
    short,
)
from memit_vc.objects.commit import COMMIT_FORMAT, is_time
from memit_vc.objects.commit_record import HANDED_ON, CommitRecord
from memit_vc.objects.fact import is_text
from memit_vc.remote.strict_json import DISTRUST, canonical
from memit_vc.store.measured import are_handed_on, are_scores

_T = TypeVar("_T")
_FIELDS = {"commit", "facts", "patches", "scores"}


class RemoteCommit(CommitRecord):
    """The record of a commit at a remote or in a patch file, read with suspicion."""

    @classmethod
    def decode(cls, data: bytes, id: CommitId, where: str) -> RemoteCommit:  # noqa: A002
        """IntegrityError for anything that `encode` does not write, or for another commit than `id`.

        RemoteError for a commit format of the future.
        """
        name = f"{where}: commit {short(id)}"
        record = canonical(data, name)
        if record.keys() - {HANDED_ON} != _FIELDS or not isinstance(record["facts"], list):
            raise IntegrityError(f"{name} is not as memit-vc writes it", hint=DISTRUST)
        try:
            commit = _parse_commit(record["commit"], name)
        except UsageError as error:
            raise RemoteError(error.message, hint=error.hint) from error
        if commit.id != id:
            raise IntegrityError(f"{name} is another commit, {short(commit.id)}", hint=DISTRUST)
        is_root = commit.kind == "root"
        if is_root == bool(commit.parents) or (is_root and commit != root_commit(commit.base, commit.message)):
            raise IntegrityError(f"{name} has no parents, or is a root that holds more than a message", hint=DISTRUST)
        facts = tuple(_parse_fact(each, f"{name}: fact {n}") for n, each in enumerate(record["facts"], 1))
        patches, scores = record["patches"], record["scores"]
        named = isinstance(patches, dict) and all(
            is_sha256(patch) and (blob is None or is_sha256(blob)) for patch, blob in patches.items()
        )
        if not named or not set(commit.patches) <= patches.keys():
            raise IntegrityError(f"{name}: the names of its patches are wrong", hint=DISTRUST)
        handed = record.get(HANDED_ON)
        if not (scores is None or are_scores(scores)) or not (HANDED_ON not in record or are_handed_on(handed)):
            raise IntegrityError(f"{name}: its scores cannot be read", hint=DISTRUST)
        return cls(commit, facts, patches, scores, handed)


def _parse_commit(record: object, where: str) -> Commit:
    """A commit from a stranger's record: all fields, of the right type, and no others.

    IntegrityError; UsageError for a commit format that this release does not know.
    """
    if isinstance(record, dict) and record.get("format") != COMMIT_FORMAT:
        raise UsageError(
            f"{where} has commit format {record.get('format')!r}, this memit-vc reads {COMMIT_FORMAT}",
            hint="Upgrade memit-vc.",
        )
    lists = ("parents", "adds", "removes", "patches")
    texts = ("kind", "message", "author", "time")
    if (
        not isinstance(record, dict)
        or not all(isinstance(record.get(key), list) and all(map(is_sha256, record[key])) for key in lists)
        or not all(is_text(record.get(key)) for key in texts)
        or not isinstance(record.get("details"), dict)
        or not is_sha256(record.get("base"))
        or not (record.get("provenance") is None or is_sha256(record["provenance"]))
    ):
        raise IntegrityError(f"{where} lacks a field or has one of another type", hint=DISTRUST)
    if not all(is_one_line(record[key]) for key in ("kind", "author", "time")):
        raise IntegrityError(f"{where} has line ends or control characters in its kind, author or time", hint=DISTRUST)
    if record["parents"] and not is_time(record["time"]):
        raise IntegrityError(f"{where} has a time that is not UTC in ISO 8601", hint=DISTRUST)
    if any(len(set(record[key])) != len(record[key]) for key in lists):
        raise IntegrityError(f"{where} names a parent, column or patch twice", hint=DISTRUST)
    return _whole(Commit.from_json, record, where)


def _parse_fact(record: object, where: str) -> Fact:
    """A fact from a stranger's record. IntegrityError."""
    if not isinstance(record, dict):
        raise IntegrityError(f"{where} is not an object", hint=DISTRUST)
    fact: Fact = _whole(Fact.from_json, record, where)
    if fact.fault is not None:
        raise IntegrityError(f"{where}: {fact.fault}", hint=DISTRUST)
    return fact


def _whole(parse: Callable[[Any], _T], record: dict[str, Any], where: str) -> _T:
    """Parse a record, and check that the result is written as the same record."""
    try:
        made = parse(record)
        same = canonical_json(made.to_json()) == canonical_json(record)  # type: ignore[attr-defined]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{where} cannot be read: {error}", hint=DISTRUST) from error
    if not same:
        raise IntegrityError(f"{where} has fields that the format does not have", hint=DISTRUST)
    return made
