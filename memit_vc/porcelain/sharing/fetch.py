"""`fetch`, and the half of `pull` and `clone` that reads: everything is checked before anything is stored.

1. memitvc.json and the records of new commits are read; ids and graph are checked.
2. Objects are downloaded to `cache/incoming` and checked against their names; patches are looked into.
3. The objects move into the store; one transaction adds the rows and moves the refs.
A crash in 1 or 2 leaves whole objects in the cache, a crash in 3 leaves orphans: the next fetch uses both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from memit_vc.errors import RevisionError, UsageError
from memit_vc.objects import Commit, CommitId, Moved, RefUpdate, moves, short
from memit_vc.porcelain.sharing.incoming import Incoming
from memit_vc.porcelain.sharing.received_history import evaluations_of, received
from memit_vc.porcelain.sharing.remote_history import Published, late_constraints, new_records, same_base
from memit_vc.porcelain.sharing.remotes import named_remote
from memit_vc.progress import Progress, count, silent
from memit_vc.remote.manifest import object_path
from memit_vc.remote.opening import nothing_there, open_remote
from memit_vc.repository import Repository
from memit_vc.vcs.refnames import check_distinct, check_one_meaning, check_ref_name

_HEX = re.compile(r"[0-9a-f]{4,}")


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
"""Names further moves; called after the new commits are checked and before anything is stored."""


def fetch(repository: Repository, remote: str | None = None, *, progress: Progress = silent) -> Fetched:
    """Bring the commits of a remote here and move `remotes/<name>/…`; branches and HEAD stay.

    Objects that were lost here are downloaded again; so are constraints that were published after their patches.

    RemoteError if nothing was ever pushed there, or the other side fails; IntegrityError for anything that a
    repository would not have pushed; LockedError while another fetch runs.
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
    """`plan` adds moves to the operation (for `pull` and `clone`); `found` is what the caller read already."""
    found = found or Published.at(open_remote(url))
    if found is None:
        raise nothing_there(url)
    same_base(repository, found.manifest, url)
    with Incoming(repository.root, repository.blobs) as incoming:
        records = new_records(found, repository.known_commits, progress=progress)
        late = late_constraints(found, repository, progress=progress)
        new = received(repository, found, records, incoming, late=late, progress=progress)
        evaluations = evaluations_of(repository, found, records, new)
        lost = {blob for blob in repository.missing_objects() if object_path(blob) in found.listing}
        incoming.fetch(found, dict.fromkeys(lost), progress=progress)
        by_id = {record.commit.id: record.commit for record in records}
        more = Moves("fetch") if plan is None else plan(found, lambda id_: by_id.get(id_) or repository.commit(id_))
        tracking, notes = _tracking(repository, name, found, [*by_id], more.refs)
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
    downloaded, moved = len(incoming.downloaded), moves(before, repository.refs())
    return Fetched(name, url, len(records), downloaded, incoming.bytes, moved, (*notes, *more.notes))


def _tracking(
    repository: Repository, name: str, found: Published, new: Collection[CommitId], others: Sequence[RefUpdate]
) -> tuple[list[RefUpdate], list[str]]:
    """The tracking refs follow the remote's branches, deleted ones too; tags that are new here are taken over.

    Whoever pushes there chooses the names. A name that could be taken for another one here is left out, with a note:
    it would stand in the way of all else. `new` are the commits that come in, `others` the refs that move, too.
    """
    local = repository.refs()
    prefix = f"remotes/{name}/"
    wanted = {
        prefix + ref.removeprefix("heads/"): commit
        for ref, commit in found.manifest.refs.items()
        if ref.startswith("heads/")
    }
    gone: Collection[str] = {ref for ref in local if ref.startswith(prefix)} - wanted.keys()
    updates = [RefUpdate(ref, local[ref], None) for ref in sorted(gone)]
    taken = {*local.keys() - gone, *(update.name for update in others)}
    notes = []
    for ref, commit in (wanted | {ref: c for ref, c in found.manifest.refs.items() if ref.startswith("tags/")}).items():
        if ref in local:
            if ref.startswith(prefix) and local[ref] != commit:
                updates.append(RefUpdate(ref, local[ref], commit))
            elif local[ref] != commit:
                notes.append(f"tag {ref[5:]} is at {short(commit)} there and at {short(local[ref])} here; it stays")
            continue
        try:
            check_ref_name(ref)
            check_distinct([ref], taken)
            if ref.startswith("tags/"):
                check_one_meaning(ref, taken)
                _check_no_id(repository, ref[5:], new)
        except UsageError as error:
            notes.append(f"{ref.removeprefix(prefix)} of the remote is left out: {error.message}")
            continue
        taken.add(ref)
        updates.append(RefUpdate(ref, None, commit))
    return updates, notes


def _check_no_id(repository: Repository, name: str, new: Collection[CommitId]) -> None:
    """UsageError for a tag whose name is the beginning of a commit's id: the commit could no longer be called so."""
    digits = name.lower()
    if _HEX.fullmatch(digits) is None:
        return
    try:
        commit: CommitId | None = repository.resolve(digits)
    except RevisionError:
        commit = next((each for each in new if each.startswith(digits)), None)
    if commit is not None:
        raise UsageError(f"{name!r} is the beginning of commit {short(commit)}'s id")
