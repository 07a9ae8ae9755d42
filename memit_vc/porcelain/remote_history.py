"""What a remote publishes, read as far as the repository does not know it, and checked: ids, graph, sizes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from memit_vc.errors import IntegrityError, MemitVCError
from memit_vc.objects import BaseId, CommitId, short
from memit_vc.porcelain.parallel import at_once
from memit_vc.porcelain.remote_commit import MAX_RECORD, RemoteCommit
from memit_vc.porcelain.remote_tree import published
from memit_vc.progress import Progress, silent
from memit_vc.remote.manifest import RemoteManifest, commit_path, is_id
from memit_vc.remote.protocol import Remote, RemoteFile

__all__ = ["Published", "new_records"]

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


def _read(
    found: Published, known: Callable[[Collection[CommitId]], Collection[CommitId]], progress: Progress
) -> dict[CommitId, RemoteCommit | MemitVCError]:
    """All commits in the tree that are not known: reading them at once is faster than walking from child to parent.

    A record that cannot be read is an error only where the history needs it.
    """
    remote, where = found.remote, found.remote.url
    listed = [CommitId(name) for path in found.listing if is_id(name := path[len("commits/") : -len(".json")])]
    listed = [commit for commit in listed if commit_path(commit) in found.listing]
    unknown = sorted(set(listed) - set(known(listed)))
    size = sum(found.listing[commit_path(commit)].size for commit in unknown)
    if size > _MOST:
        raise IntegrityError(f"{where}: lists commits of {size} bytes together", hint=_HINT)

    def fetch(commit: CommitId) -> bytes | MemitVCError:
        path = commit_path(commit)
        try:
            return remote.read(path, found.revision, limit=min(MAX_RECORD, found.listing[path].size))
        except MemitVCError as error:
            return _light(error)

    read: dict[CommitId, RemoteCommit | MemitVCError] = {}
    for number, (commit, data) in enumerate(zip(unknown, at_once(fetch, unknown), strict=True), 1):
        read[commit] = data if isinstance(data, MemitVCError) else _decoded(data, commit, where)
        progress("read commits", number, len(unknown))
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
