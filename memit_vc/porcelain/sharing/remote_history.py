"""What a remote publishes, read as far as the repository does not know it, and checked: ids, graph, sizes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from memit_vc.concurrency import ordered_map
from memit_vc.errors import IntegrityError, MemitVCError, RemoteError
from memit_vc.objects import BaseId, BaseManifest, CommitId, EditableWeight, canonical_json, is_sha256, short
from memit_vc.porcelain.sharing.remote_commit import MAX_RECORD, RemoteCommit
from memit_vc.progress import Progress, silent
from memit_vc.remote.manifest import BASE, HPARAMS, MANIFEST, MAX_MANIFEST, RemoteManifest, commit_path
from memit_vc.remote.protocol import RemoteFile, Tree
from memit_vc.remote.strict_json import parsed

if TYPE_CHECKING:
    from memit_vc.repository import Repository


_MOST = 1 << 30
"""Bytes of records that are read for one fetch: some 250,000 facts with all their scores."""
_HINT = "Nothing was stored. The remote is damaged or was made to mislead; ask whoever pushed it."
_BASE_LIMIT = 64 << 20
_NAMES = ("name", "parameter", "dtype")
_NUMBERS = ("layer", "d_out", "d_in", "quantum")


@dataclass(frozen=True)
class Published:
    """A remote at one revision."""

    remote: Tree
    revision: str
    manifest: RemoteManifest
    listing: Mapping[str, RemoteFile]

    @classmethod
    def at(cls, remote: Tree, revision: str | None = None) -> Published | None:
        """The publication at a revision, by default the present one; None where nothing was ever pushed."""
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
    read: Mapping[CommitId, RemoteCommit | MemitVCError] = {}
    if missing:
        read = _read(found, known, progress)
    wanted: dict[CommitId, RemoteCommit] = {}
    pending = sorted(missing)
    while pending:
        commit = pending.pop()
        if commit in wanted:
            continue
        record = read.get(commit)
        if record is None:
            raise IntegrityError(f"{where}: lacks commit {short(commit)}, which its history needs", hint=_HINT)
        if isinstance(record, MemitVCError):
            raise record
        wanted[commit] = record
        parents = set(record.commit.parents) - wanted.keys()
        pending.extend(parents - set(known(parents)))
    order = _parents_first(wanted, where)
    for record in order:
        _check_base(record, manifest.base, where)
    return order


def late_constraints(found: Published, repository: Repository, *, progress: Progress = silent) -> list[RemoteCommit]:
    """Records of known commits, read again, which name constraints that were not published when the commits came.

    Only asked for where patches here lack them and the remote has objects that are not here.
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


def _read(
    found: Published, known: Callable[[Collection[CommitId]], Collection[CommitId]], progress: Progress
) -> dict[CommitId, RemoteCommit | MemitVCError]:
    """All commits in the tree that are not known: reading them at once is faster than walking from child to parent.

    A record that cannot be read is an error only where the history needs it.
    """
    listed = _listed(found)
    return _records(found, sorted(set(listed) - set(known(listed))), progress)


def _records(
    found: Published, wanted: Sequence[CommitId], progress: Progress
) -> dict[CommitId, RemoteCommit | MemitVCError]:
    remote, where = found.remote, found.remote.url
    size = sum(found.listing[commit_path(commit)].size for commit in wanted)
    if size > _MOST:
        raise IntegrityError(f"{where}: lists commits of {size} bytes together", hint=_HINT)

    def fetch(commit: CommitId) -> bytes | MemitVCError:
        path = commit_path(commit)
        try:
            return remote.read(path, found.revision, limit=min(MAX_RECORD, found.listing[path].size))
        except MemitVCError as error:
            return _light(error)

    read: dict[CommitId, RemoteCommit | MemitVCError] = {}
    for number, (commit, data) in enumerate(zip(wanted, ordered_map(fetch, wanted), strict=True), 1):
        read[commit] = data if isinstance(data, MemitVCError) else _decoded(data, commit, where)
        progress("read commits", number, len(wanted))
    return read


def _decoded(data: bytes, commit: CommitId, where: str) -> RemoteCommit | MemitVCError:
    """One at a time: what a record takes while it is looked into is many times its bytes."""
    try:
        return RemoteCommit.decode(data, commit, where)
    except MemitVCError as error:
        return _light(error)


def _light(error: MemitVCError) -> MemitVCError:
    """An error to be kept for later, without the frames that hold the bytes it is about."""
    return type(error)(error.message, hint=error.hint)


def _parents_first(records: Mapping[CommitId, RemoteCommit], where: str) -> list[RemoteCommit]:
    graph: dict[CommitId, Iterable[CommitId]] = {
        commit: [parent for parent in record.commit.parents if parent in records] for commit, record in records.items()
    }
    try:
        return [records[commit] for commit in TopologicalSorter(graph).static_order()]
    except CycleError as error:
        raise IntegrityError(f"{where}: its history runs in a circle", hint=_HINT) from error


def _check_base(record: RemoteCommit, base: BaseId, where: str) -> None:
    if record.commit.base != base:
        raise IntegrityError(
            f"{where}: commit {short(record.commit.id)} belongs to base {short(record.commit.base)}, "
            f"the remote says {short(base)}",
            hint=_HINT,
        )


def same_base(repository: Repository, manifest: RemoteManifest, url: str) -> None:
    """RemoteError where the remote is about another base: its patches could not be added to this one."""
    if manifest.base != repository.base_id:
        raise RemoteError(
            f"{url} is about base {short(manifest.base)} ({manifest.source or 'a local directory'}), "
            f"this repository has {short(repository.base_id)} ({repository.config.base})",
            hint="`memitvc clone` it into a directory of its own.",
        )


@dataclass(frozen=True)
class RemoteBase:
    """What `init` recorded of the base at the other end; `manifest.id` was checked against memitvc.json."""

    manifest: BaseManifest
    weights: Sequence[EditableWeight]
    files: Mapping[str, str]
    hparams: bytes


def remote_base(there: Tree, revision: str, manifest: RemoteManifest) -> RemoteBase:
    """IntegrityError where it is not of the form that `push` writes, or of another base than the manifest says."""
    data = there.read(BASE, revision, limit=_BASE_LIMIT)
    bad = IntegrityError(f"{there.url}: {BASE} is damaged", hint=_HINT)
    try:
        record = parsed(data)
        found = BaseManifest.from_json(record["manifest"])
        weights = [EditableWeight.from_json(each) for each in record["weights"]]
        files = record["files"]
        whole = {"manifest": found.to_json(), "weights": [w.to_json() for w in weights], "files": files}
        if canonical_json(whole) != data or found.id != manifest.base:
            raise bad
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise bad from error
    shapes = {record.name: (record.dtype, record.shape) for record in found.tensors}
    for weight in weights:
        stored = (weight.d_out, weight.d_in) if weight.orientation == "out_in" else (weight.d_in, weight.d_out)
        if (
            not all(isinstance(getattr(weight, name), str) for name in _NAMES)
            or not all(type(getattr(weight, name)) is int for name in _NUMBERS)
            or shapes.get(weight.name) != (weight.dtype, stored)
        ):
            raise bad
    if not isinstance(files, dict) or not all(isinstance(n, str) and is_sha256(h) for n, h in files.items()):
        raise bad
    return RemoteBase(found, weights, files, there.read(HPARAMS, revision, limit=1 << 20))
