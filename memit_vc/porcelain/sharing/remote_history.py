"""What a remote publishes, read as far as the repository does not know it, and checked: ids, graph, sizes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from memit_vc.concurrency import ordered_map
from memit_vc.errors import IntegrityError, MemitVCError
from memit_vc.objects import BaseId, CommitId, short
from memit_vc.porcelain.sharing.remote_commit import MAX_RECORD, RemoteCommit
from memit_vc.porcelain.sharing.remote_tree import published
from memit_vc.progress import Progress, silent
from memit_vc.remote.manifest import RemoteManifest, commit_path, is_id
from memit_vc.remote.protocol import Remote, RemoteFile

if TYPE_CHECKING:
    from memit_vc.repository import Repository

__all__ = ["Published", "late_constraints", "new_records"]

_MOST = 1 << 30
"""Bytes of records that are read for one fetch: some 250,000 facts with all their scores."""
_HINT = "Nothing was stored. The remote is damaged or was made to mislead; ask whoever pushed it."


@dataclass(frozen=True)
class Published:
    """A remote at one revision."""

    remote: Remote
    revision: str
    manifest: RemoteManifest
    listing: Mapping[str, RemoteFile]

    @classmethod
    def at(cls, remote: Remote, revision: str | None = None) -> Published | None:
        """The publication at a revision, by default the present one; None where nothing was ever pushed."""
        revision = revision or remote.head()
        manifest, listing = published(remote, revision)
        return None if revision is None or manifest is None else cls(remote, revision, manifest, listing)


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
        is_id(blob := path[len("objects/") :].replace("/", "")) and not repository.blobs.has(blob)
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
    return [CommitId(name) for name in names if is_id(name) and commit_path(name) in found.listing]


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
