"""A new `.memitvc`: built beside its final name, renamed into place when it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, insert

from memit_vc.errors import IntegrityError, MemitVCError, StorageError
from memit_vc.objects import BlobId, Commit, StateId
from memit_vc.objects.commit_record import CommitRecord
from memit_vc.store.blobs import BlobStore
from memit_vc.store.database import Database
from memit_vc.store.files import new_directory, storage_errors, write_atomic
from memit_vc.store.journal import FIRST, Entry, Journal
from memit_vc.store.migrate import create_schema
from memit_vc.store.rows_history import insert_commit
from memit_vc.store.rows_refs import append_operation, write_meta
from memit_vc.store.schema import meta, refs

FORMAT = "2"


def create(root: Path, *, files: Mapping[str, bytes], base: Mapping[str, str], first: Commit, state: StateId) -> None:
    """Make the repository `root` with the one commit `first`, on branch main. MemitVCError if `root` exists.

    `files` lie in the directory, `base.json` among them, which says of the base what `base` puts into the database:
    base_id, manifest, weights, files.
    """
    with storage_errors(root):
        taken = root.exists() or root.is_symlink()
        what = "a repository" if taken and (root / "format").is_file() else "something that is not a repository"
    if taken:
        raise MemitVCError(
            f"{root} exists already and holds {what}",
            hint="Work in it, or name another directory: `memitvc init BASE DIR`.",
        )
    with new_directory(root) as temporary:
        for name in ("objects", "statistics", "cache"):
            (temporary / name).mkdir()
        for name, data in {"format": f"{FORMAT}\n".encode(), **files}.items():
            write_atomic(temporary / name, data)
        (temporary / "meta.db").touch()  # SQLite would give it a mode that no umask opens to a group
        with closing(BlobStore(temporary / "objects")) as blobs:
            record = blobs.put(CommitRecord(first, (), {}, None).encode())
        database = Database(temporary / "meta.db", create=True)
        try:
            with database.write() as connection:
                entry = _fill(connection, base, first, state, record)
            Journal(temporary / "journal", busy_seconds=0).rewrite([entry])
        finally:
            # the last connection to close moves the write-ahead log into the file: the directory is then safe to rename
            database.close()


def _fill(connection: Connection, base: Mapping[str, str], first: Commit, state: StateId, record: BlobId) -> Entry:
    create_schema(connection)
    rows = {"head": "heads/main", **base}
    connection.execute(insert(meta), [{"key": key, "value": value} for key, value in rows.items()])
    insert_commit(connection, first, state, record)
    connection.execute(insert(refs).values(name="heads/main", commit=first.id))
    after = {"heads/main": first.id}, "heads/main"
    operation = append_operation(connection, "init", first.message, before=({}, ""), after=after)
    entry = FIRST.next({"commits": [[first.id, record]], "operation": operation})
    write_meta(connection, "journal", entry.line)
    return entry


def check_format(root: Path) -> None:
    """MemitVCError unless this version reads the format of the repository `root`."""
    try:
        found = (root / "format").read_text().strip()
    except FileNotFoundError as error:
        raise IntegrityError(
            f"{root} has no file `format`: it is not a whole repository", hint="Restore it from a backup."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{root / 'format'}: cannot be read: {error}", hint="Check the permissions.") from error
    if found != FORMAT:
        older = found.isdigit() and int(found) < int(FORMAT)
        raise MemitVCError(
            f"{root} has format {found!r}; this version of memit-vc reads format {FORMAT}",
            hint="Push it with the version that made it, and clone that: format 1 was never released."
            if older
            else "Upgrade memit-vc.",
        )
