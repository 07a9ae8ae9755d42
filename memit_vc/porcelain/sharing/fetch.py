"""`fetch`, and the half of `pull` and `clone` that reads: everything is checked before anything is stored.

1. memitvc.json and the records of new commits are read; ids and graph are checked.
2. Objects are downloaded to `cache/incoming` and checked against their names; patches are looked into.
3. The objects move into the store; one transaction adds the rows and moves the refs.
A crash in 1 or 2 leaves whole objects in the cache, where the next fetch finds them; in 3 orphans, which it uses too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memit_vc.errors import MemitVCError, RemoteError, StorageError
from memit_vc.objects import Commit, CommitId, Moved, moves, short
from memit_vc.porcelain.sharing.incoming import Incoming
from memit_vc.porcelain.sharing.received_history import evaluations_of, received
from memit_vc.porcelain.sharing.remote_history import Published, late_constraints, new_records, same_base
from memit_vc.porcelain.sharing.remotes import named_remote
from memit_vc.progress import Progress, count, silent
from memit_vc.remote.manifest import object_path
from memit_vc.remote.opening import nothing_there, open_remote

if TYPE_CHECKING:
    from memit_vc.objects import RefUpdate
    from memit_vc.repository import Repository


@dataclass(frozen=True)
class Fetched:
    """What came: commits, objects and bytes that were not here; refs that moved."""

    remote: str
    url: str
    commits: int
    objects: int
    bytes: int
    moved: tuple[Moved, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Moves:
    """Further refs that move in the same operation as the tracking refs; `head` as for `Repository.publish`."""

    verb: str
    refs: Sequence[RefUpdate] = ()
    head: str | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)


Plan = Callable[[Published, Callable[[CommitId], Commit]], Moves]
"""What else is to move, asked when the new commits are checked and before anything is stored."""


def fetch(repository: Repository, remote: str | None = None, *, progress: Progress = silent) -> Fetched:
    """Bring the commits of a remote here and move `remotes/<name>/…`; branches and HEAD stay.

    Objects that were lost here are brought again, and constraints that were published after their patches.

    RemoteError where nothing was ever pushed there, or the other side fails; IntegrityError for anything that a
    repository would not have pushed; LockedError where another fetch runs.
    """
    name, url = named_remote(repository, remote)
    return fetch_from(repository, name, url, progress=progress)


def fetch_from(
    repository: Repository,
    name: str,
    url: str,
    *,
    found: Published | None = None,
    plan: Plan | None = None,
    progress: Progress = silent,
) -> Fetched:
    """`plan` adds moves to the operation (for `pull` and `clone`); `found` is what was read of the remote already."""
    found = found or Published.at(open_remote(url))
    if found is None:
        raise nothing_there(url)
    with Incoming(repository.root, repository.blobs) as incoming:
        try:
            return _fetch(repository, name, found, incoming, plan, progress)
        except (RemoteError, StorageError):
            raise  # what is whole stays in the cache: the next try goes on from there
        except MemitVCError:
            incoming.clear()
            raise


def _fetch(
    repository: Repository,
    name: str,
    found: Published,
    incoming: Incoming,
    plan: Plan | None,
    progress: Progress,
) -> Fetched:
    url, manifest = found.remote.url, found.manifest
    same_base(repository, manifest, url)
    records = new_records(found, repository.known_commits, progress=progress)
    late = late_constraints(found, repository, progress=progress)
    new = received(repository, found, records, incoming, late=late, progress=progress)
    evaluations = evaluations_of(repository, found, records, new)
    lost = {blob for blob in repository.missing_objects() if object_path(blob) in found.listing}
    incoming.fetch(found, dict.fromkeys(lost), progress=progress)
    by_id = {record.commit.id: record.commit for record in records}

    def commit_of(commit: CommitId) -> Commit:
        return by_id[commit] if commit in by_id else repository.commit(commit)

    more = Moves("fetch") if plan is None else plan(found, commit_of)
    tracking, notes = _tracking(repository, name, found)
    before = repository.refs()
    incoming.store({*new.objects, *lost})
    repository.publish(
        verb=more.verb,
        description=f"{name} ({count(len(records), 'new commit')})",
        commits=[record.commit for record in records],
        patches=new.patches,
        facts=list(new.facts.values()),
        evaluations=evaluations,
        refs=[*tracking, *more.refs],
        head=more.head,
    )
    incoming.clear()
    return Fetched(
        name,
        url,
        len(records),
        len(incoming.downloaded),
        incoming.bytes,
        moves(before, repository.refs()),
        (*notes, *more.notes),
    )


def _tracking(repository: Repository, name: str, found: Published) -> tuple[list[RefUpdate], list[str]]:
    """The tracking refs follow the remote's branches, also where one was deleted; tags that are new here are taken."""
    from memit_vc.objects import RefUpdate

    local = repository.refs()
    prefix = f"remotes/{name}/"
    wanted = {
        prefix + ref.removeprefix("heads/"): commit
        for ref, commit in found.manifest.refs.items()
        if ref.startswith("heads/")
    }
    gone: Collection[str] = {ref for ref in local if ref.startswith(prefix)} - wanted.keys()
    updates = [RefUpdate(ref, local.get(ref), commit) for ref, commit in wanted.items() if local.get(ref) != commit]
    updates += [RefUpdate(ref, local[ref], None) for ref in sorted(gone)]
    notes = []
    for ref, commit in found.manifest.refs.items():
        if ref.startswith("tags/") and ref not in local:
            updates.append(RefUpdate(ref, None, commit))
        elif ref.startswith("tags/") and local[ref] != commit:
            notes.append(f"tag {ref[5:]} is at {short(commit)} there and at {short(local[ref])} here; it stays")
    return updates, notes
