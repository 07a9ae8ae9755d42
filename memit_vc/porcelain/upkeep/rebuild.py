"""`fsck --rebuild`: meta.db from what it is an index of, the objects and the journal; or the journal from meta.db.

A new database is built beside the old one, which is then moved aside. Scores that were measured later than their
commits, and hashes of tensors that checkouts recorded, are in the old database only: they are measured again.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select

from memit_vc.errors import IntegrityError, LockedError, MemitVCError, StorageError
from memit_vc.numerics.exact.received import received_patch
from memit_vc.objects import BlobId, CommitId, Patch, PatchId, StateId, StatisticsId, short, utc_now
from memit_vc.objects.base_record import BASE, BaseRecord
from memit_vc.objects.commit_record import HANDED_ON, CommitRecord, KeptRecord
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.store import publish, rows_kept, rows_refs, rows_results
from memit_vc.store.blobs import BlobStore
from memit_vc.store.create import check_format
from memit_vc.store.database import BUSY_SECONDS, Database
from memit_vc.store.files import fsync_path, replacing, scratch, storage_errors
from memit_vc.store.journal import FIRST, Entry, Journal
from memit_vc.store.journal_replay import Replayed, whole
from memit_vc.store.locks import locked_directory
from memit_vc.store.lost import read_record, records_among
from memit_vc.store.measured import is_measured
from memit_vc.store.mend import mend_records
from memit_vc.store.migrate import create_schema
from memit_vc.store.parsed import BAD_JSON
from memit_vc.store.schema import commits, kept, meta, patches, refs
from memit_vc.store.transaction import newest_entry
from memit_vc.store.unfinished import unfinished_records
from memit_vc.store.writing import UNFINISHED
from memit_vc.vcs.state import state_id

_RECOVERED = "heads/recovered-"


@dataclass(frozen=True)
class Rebuilt:
    """`made` says what was made, of the other one: "meta.db" or "journal". `aside` is a copy of the old file, if there
    was one. `recovered` are new branches at commits that the journal does not have, `gaps` what is missing in it.
    """

    made: str
    commits: int
    operations: int
    recovered: tuple[str, ...]
    aside: Path | None
    gaps: tuple[str, ...]


def rebuild(start: Path, *, progress: Progress = silent) -> Rebuilt:
    """Make meta.db again from the objects and the journal. If meta.db is whole and the journal lacks lines that it has,
    the journal is made of meta.db instead.

    IntegrityError, and nothing is changed, if an object is missing or damaged that a commit needs. LockedError if
    another process goes on writing; others wait until all is done.
    """
    root = Repository.find(start)
    check_format(root)
    journal = Journal(root / "journal", busy_seconds=BUSY_SECONDS)
    with locked_directory(
        root,
        wait=BUSY_SECONDS,
        busy=f"another command has been writing to {root} for more than {BUSY_SECONDS:g} s",
        hint="Wait for the other command to end and try again.",
    ):
        newest = _newest_of_database(root)
        if newest is not None:
            with suppress(IntegrityError):  # the journal lacks more than this line
                journal.append(newest)  # if its writer died before it could
            _mend(root, journal)
        entries = journal.entries()
        last = entries[-1] if entries else FIRST
        if newest is not None and newest.number > last.number:
            return _journal_of(root, journal, newest)
        return _database_of(root, journal, entries, progress)


def _newest_of_database(root: Path) -> Entry | None:
    """The newest line that meta.db has; None if it cannot be read."""
    with suppress(MemitVCError):
        database = Database(root / "meta.db", locked=True)
        try:
            with database.read() as connection:
                return newest_entry(connection)
        finally:
            database.close()
    return None


def _mend(root: Path, journal: Journal) -> None:
    """Write records that are missing or damaged again, if the database still has what is in them."""
    database = Database(root / "meta.db", locked=True)
    try:
        with suppress(MemitVCError), closing(BlobStore(root / "objects")) as blobs:
            mend_records(database, journal, blobs)
    finally:
        database.close()


def _journal_of(root: Path, journal: Journal, newest: Entry) -> Rebuilt:
    """A journal that starts anew with all that meta.db says."""
    database = Database(root / "meta.db", locked=True)
    try:
        with database.write() as connection:
            found = _story(connection)
            entry = newest.next(whole(found))
            rows_refs.write_meta(connection, "journal", entry.line)
        aside = _aside(root, "journal")
        journal.rewrite([entry])
    finally:
        database.close()
    return Rebuilt("journal", len(found.commits), len(found.operations), (), aside, ())


def _story(connection: Connection) -> Replayed:
    """What the rows say, as a journal would."""
    constraints = _pairs(connection, patches.c.id, patches.c.constraints, patches.c.id)
    return Replayed(
        commits=dict(_pairs(connection, commits.c.id, commits.c.record, commits.c.seq)),
        constraints={patch: blob for patch, blob in constraints if blob is not None},
        kept=dict(_pairs(connection, kept.c.patch, kept.c.record, kept.c.time)),
        refs=rows_refs.load_refs(connection),
        head=rows_refs.raw_head(connection),
        operations={each.id: each for each in reversed(rows_refs.load_operations(connection))},
        last_operation=rows_refs.last_number(connection),
    )


def _pairs(connection: Connection, key: Any, value: Any, order: Any) -> list[tuple[Any, Any]]:
    return [(row[0], row[1]) for row in connection.execute(select(key, value).order_by(order))]


def _database_of(root: Path, journal: Journal, entries: list[Entry], progress: Progress) -> Rebuilt:
    blobs = BlobStore(root / "objects")
    told = Replayed.of(entries)
    records = _records(blobs, told)
    strangers = _strangers(blobs, root, told, records)
    every = _parents_first({**records, **strangers})
    base = _base(root)
    with scratch(root / "meta.db") as place:
        temporary = place / "meta.db"
        temporary.touch()  # SQLite would give it a mode that no umask opens to a group
        database = Database(temporary, create=True)
        try:
            with database.write() as connection:
                create_schema(connection)
                connection.execute(insert(meta), [{"key": key, "value": value} for key, value in base.rows().items()])
                builder = _Builder(connection, blobs, base, told)
                for number, (commit, (blob, record)) in enumerate(every.items(), 1):
                    builder.add(commit, blob, record)
                    progress("rebuild commits", number, len(every))
                builder.keep()
                _log(connection, told)
                did, recovered = _recover(connection, told, every, strangers)
                _statistics(connection, root)
                last = entries[-1] if entries else FIRST
                anew = bool(told.gaps) or not entries
                entry = last.next(whole(_story(connection)) if anew else {"rebuilt": utc_now(), **did})
                rows_refs.write_meta(connection, "journal", entry.line)
                operations = len(rows_refs.load_operations(connection))
        finally:
            database.close()
        aside = _replace(root, temporary)
    if anew:
        _aside(root, "journal")
        journal.rewrite([entry])
    else:
        journal.append(entry)
    return Rebuilt("meta.db", len(every), operations, tuple(recovered), aside, tuple(told.gaps))


_Records = dict[CommitId, tuple[BlobId, CommitRecord]]


def _records(blobs: BlobStore, told: Replayed) -> _Records:
    """The records of the commits that the journal has, in its order. IntegrityError names those that cannot be had."""
    found: _Records = {}
    bad: list[str] = []
    for commit, blob in told.commits.items():
        try:
            record = read_record(blobs, blob)
        except (MemitVCError, *BAD_JSON):
            bad.append(f"the record of commit {short(commit)}, object {blob}")
            continue
        found[commit] = blob, record
    _refuse(bad)
    return found


def _strangers(blobs: BlobStore, root: Path, told: Replayed, records: _Records) -> _Records:
    """Commits whose records are here although the journal does not have them, with all their ancestors."""
    explained = told.named | unfinished_records(root / UNFINISHED)
    found = {record.commit.id: (blob, record) for blob, record in records_among(blobs, explained)}
    found = {commit: found[commit] for commit in sorted(found, key=lambda each: (found[each][1].commit.time, each))}
    found = {commit: each for commit, each in found.items() if commit not in records}
    while True:
        parted = [c for c, (_, r) in found.items() if not all(p in records or p in found for p in r.commit.parents)]
        if not parted:
            return found
        for commit in parted:
            del found[commit]


def _parents_first(records: _Records) -> _Records:
    """The same in the given order, except that no commit comes before its parents."""
    ordered: _Records = {}
    for first in records:
        pending = [first]
        while pending:
            missing = [p for p in records[pending[-1]][1].commit.parents if p in records and p not in ordered]
            if missing:
                pending.extend(missing)
            else:
                ordered.setdefault(commit := pending.pop(), records[commit])
    return ordered


def _base(root: Path) -> BaseRecord:
    path = root / BASE
    try:
        return BaseRecord.parse(path.read_bytes())
    except (OSError, *BAD_JSON) as error:
        raise IntegrityError(
            f"{path} is missing or damaged: nothing else says what the base is",
            hint=f"Copy {BASE} from a remote, a clone or a backup, and run the command again.",
        ) from error


class _Builder:
    """Rows of commits and of what they need. Patches are read once, and checked as those of a stranger."""

    def __init__(self, connection: Connection, blobs: BlobStore, base: BaseRecord, told: Replayed) -> None:
        self.connection, self.blobs, self.base, self.told = connection, blobs, base, told
        self.base_id = base.manifest.id
        self._done: dict[PatchId, BlobId | None] = {}

    def add(self, commit: CommitId, blob: BlobId, record: CommitRecord) -> None:
        facts = {fact.id: fact for fact in record.facts}
        new = [self._patch(patch, named) for patch, named in record.patches.items() if self._is_new(patch, named)]
        publish.insert_patches(self.connection, self.blobs, self.base_id, new, list(facts.values()))
        publish.insert_commits(
            self.connection,
            self.blobs,
            self.base_id,
            lambda columns: state_id(self.base_id, columns),
            [record.commit],
            lambda _: blob,
        )
        state = self.connection.execute(select(commits.c.state).where(commits.c.id == commit)).scalar_one()
        for kind, scores in (("commit", record.scores), (HANDED_ON, record.handed_on)):
            if scores is not None and is_measured(kind, scores):  # else they can be measured again
                rows_results.replace_evaluation(self.connection, StateId(state), commit, kind, commit, dict(scores))

    def keep(self) -> None:
        """The patches that wait for a commit."""
        for patch, blob in self.told.kept.items():
            try:
                record = KeptRecord.from_json(json.loads(self.blobs.read(blob)))
            except (MemitVCError, *BAD_JSON):
                _refuse([f"the record of kept patch {short(patch)}, object {blob}"])
            new = [self._patch(patch, record.constraints)] if self._is_new(patch, record.constraints) else []
            publish.insert_patches(self.connection, self.blobs, self.base_id, new, record.facts)
            rows_kept.insert_kept(self.connection, record, blob)

    def _is_new(self, patch: PatchId, constraints: BlobId | None) -> bool:
        """Whether the patch, or its constraints, have no row yet."""
        return patch not in self._done or (self._done[patch] is None and constraints is not None)

    def _patch(self, patch: PatchId, constraints: BlobId | None) -> Patch:
        try:
            data = self.blobs.read(patch)
        except MemitVCError:
            _refuse([f"patch {patch}"])
        base = self.base
        made = received_patch(data, None, base=self.base_id, manifest=base.manifest, weights=base.weights)
        named = self.told.constraints.get(patch, constraints)
        self._done[patch] = named
        if named is not None and not self.blobs.has(named):
            named = None  # `pull` brings it, as it brings constraints that were pushed late
        return Patch(made.id, made.header, made.columns, made.bounds, named)


def _refuse(missing: list[str]) -> None:
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise IntegrityError(
            f"meta.db cannot be made again: {missing[0]}{more} is missing or damaged",
            hint="Copy it into .memitvc/objects from a backup, a clone or a remote, and run the command again.",
        )


def _log(connection: Connection, told: Replayed) -> None:
    """Refs, HEAD and the operation log."""
    rows_refs.write_meta(connection, "head", told.head)
    if told.refs:
        connection.execute(insert(refs), [{"name": name, "commit": commit} for name, commit in told.refs.items()])
    for operation in told.operations.values():
        rows_refs.insert_operation(connection, operation)
    rows_refs.set_last_number(connection, told.last_operation)


def _recover(
    connection: Connection, told: Replayed, every: _Records, strangers: _Records
) -> tuple[dict[str, Any], list[str]]:
    """Branches for commits that the journal does not know, so that `gc` keeps them: what the journal must say of them,
    and the branches.
    """
    if not strangers:
        return {}, []
    parents = {parent for _, record in every.values() for parent in record.commit.parents}
    tips = [commit for commit in strangers if commit not in parents]
    did: dict[str, Any] = {"commits": [[commit, blob] for commit, (blob, _) in strangers.items()]}
    names = {f"{_RECOVERED}{short(tip)}": tip for tip in tips}
    if not told.head:  # the journal is gone, too
        names["heads/main"] = tips[-1]
        names = {name: tip for name, tip in names.items() if name == "heads/main" or tip != tips[-1]}
    with rows_refs.logged(connection, did, verb="rebuild", description="commits that the journal does not have"):
        for name, tip in sorted(names.items()):
            if name not in told.refs:
                connection.execute(insert(refs).values(name=name, commit=tip))
        if not told.head:
            rows_refs.write_meta(connection, "head", "heads/main")
    return did, [name.removeprefix("heads/") for name in sorted(names)]


def _statistics(connection: Connection, root: Path) -> None:
    for path in sorted((root / "statistics").glob("*/key.json")):
        with suppress(OSError, *BAD_JSON):
            rows_results.replace_statistics(connection, StatisticsId(path.parent.name), json.loads(path.read_bytes()))


def _aside(root: Path, name: str) -> Path | None:
    """A copy of a file beside it, if there is one."""
    source = root / name
    target = root / f"{name}.before-{utc_now().replace(':', '')}-{secrets.token_hex(3)}"
    with storage_errors(source):
        if not source.exists():
            return None
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
    return target


def _overwritten(place: Path, made: Path) -> bool:
    """Whether the old file could take the new content. Other processes may have it open: if it went, they would remove
    the new one's log by its name.
    """
    try:
        with closing(sqlite3.connect(place, timeout=BUSY_SECONDS)) as old, closing(sqlite3.connect(made)) as new:
            new.backup(old)
    except sqlite3.DatabaseError as error:
        reason = str(error).lower()
        if "locked" in reason or "busy" in reason:
            raise LockedError(f"{place}: another process is using it", hint="Run the command again later.") from error
        if not any(word in reason for word in ("not a database", "malformed", "unsupported file format")):
            raise StorageError(f"{place}: {error}", hint="Check the disk and run the command again.") from error
        return False
    return True


def _replace(root: Path, made: Path) -> Path | None:
    """Put the new database into the place of the old one; where a copy of the old one lies."""
    place = root / "meta.db"
    aside = _aside(root, place.name)
    if aside is not None and _overwritten(place, made):
        return aside
    with storage_errors(place):
        for end in ("", "-wal", "-shm", "-journal"):  # the file first: whoever opened it then would make these anew
            place.with_name(f"{place.name}{end}").unlink(missing_ok=True)
        fsync_path(made)
        made.rename(place)
        fsync_path(root)
    return aside
