"""The patch file: commits, facts and blobs in one safetensors container, read with suspicion.

Every blob is an U8 tensor named by its SHA-256; the tensor `manifest` is canonical JSON that says what they are. No
name in it is ever used as a path, and a container's header cannot claim more than the file holds.

    {"base": id, "commits": [{…}, parents first], "facts": [{…}], "patches": {patch id: constraints id or null}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from memit_vc.errors import IntegrityError, MemitVCError, UsageError
from memit_vc.objects import METADATA_KEY, BaseId, BlobId, Commit, Fact, JsonValue, PatchId, canonical_json, is_sha256
from memit_vc.objects.commit import COMMIT_FORMAT
from memit_vc.store.files import storage_errors, write_atomic
from memit_vc.store.safetensors_file import FileHeader, parse_header, read_header, write_header

__all__ = ["BUNDLE_FORMAT", "Bundle", "Manifest", "parse_commit", "parse_fact", "write_bundle"]

BUNDLE_FORMAT = 1
_KIND = "bundle"
_MANIFEST = "manifest"
_HINT = "The file is damaged or was made to mislead; nothing was stored."
_T = TypeVar("_T")


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds. `patches` maps each to its constraints blob, where that is in the file."""

    base: BaseId
    commits: tuple[Commit, ...]
    facts: tuple[Fact, ...]
    patches: Mapping[PatchId, BlobId | None]

    def to_json(self) -> dict[str, JsonValue]:
        constraints: dict[str, JsonValue] = {str(patch): blob for patch, blob in self.patches.items()}
        return {
            "base": self.base,
            "commits": [commit.to_json() for commit in self.commits],
            "facts": [fact.to_json() for fact in self.facts],
            "patches": constraints,
        }

    @property
    def blobs(self) -> set[str]:
        """Every blob that is named, the provenance of patches apart: that is in their own headers."""
        named: set[str] = {*self.patches, *(blob for blob in self.patches.values() if blob is not None)}
        return named | {commit.provenance for commit in self.commits if commit.provenance is not None}


def write_bundle(path: Path, manifest: Manifest, blobs: Mapping[BlobId, Path]) -> None:
    """Write the file whole or not at all. StorageError."""
    described = canonical_json(manifest.to_json())
    with storage_errors(path):
        sizes = {str(blob): source.stat().st_size for blob, source in blobs.items()} | {_MANIFEST: len(described)}
    metadata = {METADATA_KEY: canonical_json({"format": BUNDLE_FORMAT, "kind": _KIND}).decode()}
    head = write_header({name: ("U8", (size,)) for name, size in sizes.items()}, metadata)

    def content() -> Iterator[bytes]:
        yield head
        for name in parse_header(head, len(head) + sum(sizes.values()), source=str(path)).tensors:
            yield described if name == _MANIFEST else blobs[BlobId(name)].read_bytes()

    write_atomic(path, content())


def _header(path: Path) -> FileHeader:
    try:
        return read_header(path)
    except IntegrityError as error:
        with storage_errors(path), path.open("rb") as file:
            start = file.read(64)
        # the length that a safetensors file begins with has zeros
        if start.lstrip()[:1] in (b"{", b"[") and 0 not in start:
            raise UsageError(
                f"{path}: is JSON, not a patch file of `memitvc export --patch`",
                hint="Edits are committed: memitvc commit FILE",
            ) from error
        raise


class Bundle:
    """An open patch file: its manifest checked for form, its blobs read one at a time and checked against their name.

    IntegrityError for anything that `write_bundle` would not have written, MemitVCError for a version that this
    release does not know, StorageError where the system refuses the read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileHeader = _header(path)
        self._check_kind()
        for name, entry in self._file.tensors.items():
            known = name == _MANIFEST or is_sha256(name)
            if not known or entry.dtype != "U8" or len(entry.shape) != 1:
                raise self._bad(f"holds {name!r}, which is no object of memit-vc")
        if _MANIFEST not in self._file.tensors:
            raise self._bad("has no manifest")
        self.manifest = self._manifest(self._bytes(_MANIFEST))

    @property
    def blobs(self) -> set[str]:
        """The names of the blobs in the file."""
        return set(self._file.tensors) - {_MANIFEST}

    def read(self, blob: str) -> bytes:
        """A blob's bytes, which hash to its name."""
        if blob not in self.blobs:
            raise self._bad(f"lacks the object {blob[:10]}")
        data = self._bytes(blob)
        if hashlib.sha256(data).hexdigest() != blob:
            raise self._bad(f"object {blob[:10]} is not what its name says")
        return data

    def _bytes(self, name: str) -> bytes:
        entry = self._file.tensors[name]
        with storage_errors(self.path), self.path.open("rb") as file:
            file.seek(self._file.data_start + entry.begin)
            return file.read(entry.size)

    def _check_kind(self) -> None:
        try:
            record = json.loads(self._file.metadata[METADATA_KEY])
            kind, version = record["kind"], record["format"]
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise self._bad("is no patch file") from error
        if kind != _KIND:
            raise self._bad(f"is no patch file but {kind!r}")
        if version != BUNDLE_FORMAT:
            raise MemitVCError(
                f"{self.path}: has patch file format {version!r}, this memit-vc reads {BUNDLE_FORMAT}",
                hint="Upgrade memit-vc.",
            )

    def _manifest(self, raw: bytes) -> Manifest:
        record = self._parsed(lambda: json.loads(raw))
        if not isinstance(record, dict) or record.keys() != {"base", "commits", "facts", "patches"}:
            raise self._bad("its manifest has other fields than base, commits, facts and patches")
        lists = (record["commits"], record["facts"])
        if not all(isinstance(each, list) for each in lists) or not isinstance(record["patches"], dict):
            raise self._bad("its manifest has fields of another type")
        base = record["base"]
        names = [base, *record["patches"], *(blob for blob in record["patches"].values() if blob is not None)]
        if not all(map(is_sha256, names)):
            raise self._bad("its manifest names something that is no SHA-256")
        commits = tuple(parse_commit(each, f"{self.path}: commit {n}") for n, each in enumerate(record["commits"], 1))
        facts = tuple(parse_fact(each, f"{self.path}: fact {n}") for n, each in enumerate(record["facts"], 1))
        made = Manifest(BaseId(base), commits, facts, record["patches"])
        if self._parsed(lambda: canonical_json(made.to_json())) != raw:
            raise self._bad("its manifest is not canonical JSON")
        self._check_graph(commits)
        return made

    def _check_graph(self, commits: Sequence[Commit]) -> None:
        """Parents first and each commit once: an order in which a cycle cannot be written down."""
        if not commits:
            raise self._bad("holds no commit")
        ids = [commit.id for commit in commits]
        if len(set(ids)) != len(ids):
            raise self._bad("holds a commit twice")
        place = {commit: number for number, commit in enumerate(ids)}
        for number, commit in enumerate(commits):
            if any(place.get(parent, -1) >= number for parent in commit.parents):
                raise self._bad(f"commit {ids[number][:10]} stands before its parent")

    def _parsed(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except (ValueError, TypeError, RecursionError) as error:
            raise self._bad(f"its manifest cannot be read: {error}") from error

    def _bad(self, reason: str) -> IntegrityError:
        return IntegrityError(f"{self.path}: {reason}", hint=_HINT)


def parse_commit(record: object, where: str) -> Commit:
    """A commit from a record that somebody else wrote: all fields, of the right type, and none besides.

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
        or not all(_is_text(record.get(key)) for key in texts)
        or not isinstance(record.get("details"), dict)
        or not is_sha256(record.get("base"))
        or not (record.get("provenance") is None or is_sha256(record["provenance"]))
    ):
        raise IntegrityError(f"{where} lacks a field or has one of another type", hint=_HINT)
    if any(len(set(record[key])) != len(record[key]) for key in lists):
        raise IntegrityError(f"{where} names a parent, column or patch twice", hint=_HINT)
    return _whole(Commit.from_json, record, where)


def parse_fact(record: object, where: str) -> Fact:
    """A fact from a record that somebody else wrote. IntegrityError."""
    if not isinstance(record, dict):
        raise IntegrityError(f"{where} is not an object", hint=_HINT)
    probes = record.get("neighborhood_prompts", [])
    occurrence = record.get("subject_occurrence")
    if (
        not all(_is_text(record.get(key)) and record[key].strip() for key in ("prompt", "subject", "target_new"))
        or not _is_text(record.get("ground_truth", ""))
        or not isinstance(record.get("paraphrase_prompts", []), list)
        or not all(map(_is_text, record.get("paraphrase_prompts", [])))
        or not isinstance(probes, list)
        or not all(isinstance(each, dict) and _is_text(each.get("prompt")) for each in probes)
        or not all(_is_text(each.get("ground_truth", "")) for each in probes)
        or not (occurrence is None or (type(occurrence) is int and 0 <= occurrence < 2**31))
    ):
        raise IntegrityError(f"{where} lacks a field or has one of another type", hint=_HINT)
    fact: Fact = _whole(Fact.from_json, record, where)
    try:
        _ = fact.subject_span
    except ValueError as error:
        raise IntegrityError(f"{where}: {error}", hint=_HINT) from error
    return fact


def _whole(parse: Callable[[Any], _T], record: dict[str, Any], where: str) -> _T:
    """Parsed, and found to say the same when written again."""
    try:
        made = parse(record)
        same = canonical_json(made.to_json()) == canonical_json(record)  # type: ignore[attr-defined]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{where} cannot be read: {error}", hint=_HINT) from error
    if not same:
        raise IntegrityError(f"{where} has fields that the format does not have", hint=_HINT)
    return made


def _is_text(value: object) -> bool:
    """Text that every database and terminal can hold: no NUL, no lone surrogate."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)
