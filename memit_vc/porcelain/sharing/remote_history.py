"""What a remote publishes and the repository does not know yet, read and checked: ids, graph, sizes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from typing import ParamSpec, TypeVar

from memit_vc.concurrency import ordered_map
from memit_vc.errors import IntegrityError, MemitVCError, RemoteError
from memit_vc.foreign.data import json_value
from memit_vc.foreign.refused import Refused, hint_of
from memit_vc.objects import BaseManifest, CommitId, EditableWeight, TensorRecord, canonical_json, is_sha256, short
from memit_vc.porcelain.sharing.remote_commit import RemoteCommit
from memit_vc.progress import Progress, silent
from memit_vc.remote.manifest import BASE, HPARAMS, MANIFEST, MAX_MANIFEST, MAX_RECORD, RemoteManifest, commit_path
from memit_vc.remote.protocol import RemoteFile, Tree
from memit_vc.remote.strict_json import DISTRUST
from memit_vc.repository import Repository
from memit_vc.store.safetensors_file import MAX_DIMENSIONS

_MOST = 1 << 30
"""Bytes of records that are read for one fetch: some 250,000 facts with all their scores."""
_BASE_LIMIT = 64 << 20
_NAMES = ("name", "parameter", "dtype")
_NUMBERS = ("layer", "d_out", "d_in", "quantum")
_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Published:
    """A remote at one revision."""

    remote: Tree
    revision: str
    manifest: RemoteManifest
    listing: Mapping[str, RemoteFile]

    @classmethod
    def at(cls, remote: Tree, revision: str | None = None) -> Published | None:
        """What was published at a revision, by default the newest; None if nothing was ever pushed."""
        revision = revision or remote.head()
        listing = {} if revision is None else remote.listing(revision)
        if revision is None or MANIFEST not in listing:
            return None
        data = remote.read(MANIFEST, revision, limit=MAX_MANIFEST)
        return cls(remote, revision, RemoteManifest.decode(data, remote.url), listing)


def new_records(
    found: Published, known: Callable[[Collection[CommitId]], Collection[CommitId]], *, progress: Progress = silent
) -> list[RemoteCommit]:
    """Every commit that the remote's refs reach and `known` does not name, parents first.

    IntegrityError for a commit that is missing, damaged, under another's name or of another base, and for a cycle.
    """
    manifest, where = found.manifest, found.remote.url
    tips = set(manifest.refs.values())
    missing = tips - set(known(tips))
    # all that are not known, at once: that is faster than walking from child to parent
    listed = _listed(found) if missing else []
    read = _records(found, sorted(set(listed) - set(known(listed))), progress)
    wanted: dict[CommitId, RemoteCommit] = {}
    pending = sorted(missing)
    while pending:
        commit = pending.pop()
        if commit in wanted:
            continue
        record = read.get(commit)
        if record is None:
            raise IntegrityError(f"{where}: lacks commit {short(commit)}, which its history needs", hint=DISTRUST)
        if isinstance(record, MemitVCError):
            raise record
        wanted[commit] = record
        parents = set(record.commit.parents) - wanted.keys()
        pending.extend(sorted(parents - set(known(parents))))
    for record in wanted.values():
        if record.commit.base != manifest.base:
            raise IntegrityError(
                f"{where}: commit {short(record.commit.id)} belongs to base {short(record.commit.base)}, "
                f"the remote says {short(manifest.base)}",
                hint=DISTRUST,
            )
    try:
        return _oldest_first(wanted)
    except CycleError as error:
        raise IntegrityError(f"{where}: its history runs in a circle", hint=DISTRUST) from error


def _oldest_first(records: Mapping[CommitId, RemoteCommit]) -> list[RemoteCommit]:
    """Parents first, and else by time and id: `import` makes commits in this order. CycleError."""
    sorter = TopologicalSorter({c: [p for p in r.commit.parents if p in records] for c, r in records.items()})
    sorter.prepare()
    ready: list[tuple[str, CommitId]] = []
    order: list[RemoteCommit] = []
    while sorter.is_active():
        for commit in sorter.get_ready():
            heappush(ready, (records[commit].commit.time, commit))
        _, commit = heappop(ready)
        order.append(records[commit])
        sorter.done(commit)
    return order


def late_constraints(found: Published, repository: Repository, *, progress: Progress = silent) -> list[RemoteCommit]:
    """Records of known commits, read again: they may name constraints that were published after the commits came.

    Nothing is read unless patches here lack constraints and the remote has objects that are not here.
    """
    lacking = {patch for patch, blob in repository.patch_constraints().items() if blob is None}
    if not lacking or not any(
        is_sha256(blob := path[len("objects/") :].replace("/", "")) and not repository.blobs.has(blob)
        for path in found.listing
        if path.startswith("objects/")
    ):
        return []
    here = repository.commits(sorted(repository.known_commits(_listed(found))))
    wanted = [commit for commit, known in here.items() if not lacking.isdisjoint(known.patches)]
    records = _records(found, wanted, progress)
    return [record for record in records.values() if isinstance(record, RemoteCommit)]


def _listed(found: Published) -> list[CommitId]:
    """The commits in the tree."""
    names = (path[len("commits/") : -len(".json")] for path in found.listing)
    return [CommitId(name) for name in names if is_sha256(name) and commit_path(name) in found.listing]


def _records(
    found: Published, wanted: Sequence[CommitId], progress: Progress
) -> dict[CommitId, RemoteCommit | MemitVCError]:
    """Records by commit. One that cannot be read is an error only if the history needs it."""
    remote, where = found.remote, found.remote.url
    size = sum(found.listing[commit_path(commit)].size for commit in wanted)
    if size > _MOST:
        raise IntegrityError(f"{where}: lists commits of {size} bytes together", hint=DISTRUST)

    def fetch(commit: CommitId) -> bytes:
        path = commit_path(commit)
        return remote.read(path, found.revision, limit=min(MAX_RECORD, found.listing[path].size))

    read: dict[CommitId, RemoteCommit | MemitVCError] = {}
    fetched = ordered_map(lambda commit: _or_error(fetch, commit), wanted)
    # decoded one at a time: while a record is looked into, it takes many times its bytes
    for number, (commit, data) in enumerate(zip(wanted, fetched, strict=True), 1):
        decoded = data if isinstance(data, MemitVCError) else _or_error(RemoteCommit.decode, data, commit, where)
        read[commit] = decoded
        progress("read commits", number, len(wanted))
    return read


def _or_error(call: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T | MemitVCError:
    """The result, or the error without the frames that hold the bytes it is about."""
    try:
        return call(*args, **options)
    except MemitVCError as error:
        return type(error)(error.message, hint=error.hint)


def same_base(repository: Repository, manifest: RemoteManifest, url: str) -> None:
    """RemoteError if the remote is about another base: its patches cannot be added to this one."""
    if manifest.base != repository.base_id:
        raise RemoteError(
            f"{url} is about base {short(manifest.base)} ({manifest.source or 'a local directory'}), "
            f"this repository has {short(repository.base_id)} ({repository.config.base})",
            hint="Clone it into a directory of its own: memitvc clone URL DIR",
        )


@dataclass(frozen=True)
class RemoteBase:
    """What `init` recorded about the remote's base; `manifest.id` was checked against memitvc.json."""

    manifest: BaseManifest
    weights: Sequence[EditableWeight]
    files: Mapping[str, str]
    hparams: bytes


def _is_record(tensor: TensorRecord) -> bool:
    return (
        all(isinstance(text, str) for text in (tensor.name, tensor.dtype, tensor.file))
        and is_sha256(tensor.sha256)
        and len(tensor.shape) <= MAX_DIMENSIONS
        and all(type(size) is int and 0 <= size < 2**63 for size in tensor.shape)
    )


def remote_base(there: Tree, revision: str, manifest: RemoteManifest) -> RemoteBase:
    """The base of a remote. IntegrityError if `push` would not have written it so, or if the manifest names another."""
    data = there.read(BASE, revision, limit=_BASE_LIMIT)
    bad = IntegrityError(f"{there.url}: {BASE} is damaged", hint=DISTRUST)
    try:
        record = json_value(data)
        found = BaseManifest.from_json(record["manifest"])
        weights = [EditableWeight.from_json(each) for each in record["weights"]]
        files = record["files"]
        whole = {"manifest": found.to_json(), "weights": [w.to_json() for w in weights], "files": files}
        if canonical_json(whole) != data or found.id != manifest.base or not all(map(_is_record, found.tensors)):
            raise bad
    except Refused as error:
        raise IntegrityError(f"{there.url}: {BASE} {error}", hint=hint_of(error, DISTRUST)) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise bad from error
    shapes = {record.name: (record.dtype, record.shape) for record in found.tensors}
    for weight in weights:
        stored = (weight.d_out, weight.d_in) if weight.orientation == "out_in" else (weight.d_in, weight.d_out)
        if (
            not all(isinstance(getattr(weight, name), str) for name in _NAMES)
            or not all(type(getattr(weight, name)) is int for name in _NUMBERS)
            or weight.orientation not in ("out_in", "in_out")
            or not (weight.expert is None or (type(weight.expert) is int and weight.expert >= 0))
            or shapes.get(weight.name) != (weight.dtype, stored)
        ):
            raise bad
    if not isinstance(files, dict) or not all(isinstance(n, str) and is_sha256(h) for n, h in files.items()):
        raise bad
    return RemoteBase(found, weights, files, there.read(HPARAMS, revision, limit=1 << 20))
