"""A new `.memitvc`: built beside its final name, renamed into place when it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Connection, insert

from memit_vc.errors import MemitVCError
from memit_vc.objects import Commit, StateId
from memit_vc.store.database import Database
from memit_vc.store.files import new_directory, storage_errors, write_atomic
from memit_vc.store.migrate import create_schema
from memit_vc.store.rows_history import insert_commit
from memit_vc.store.rows_refs import append_operation
from memit_vc.store.schema import meta, refs

FORMAT = "1"


def create(root: Path, *, files: Mapping[str, bytes], base: Mapping[str, str], first: Commit, state: StateId) -> None:
    """Make the repository `root` with the one commit `first`, on branch main. MemitVCError if `root` exists.

    `files` lie in the directory; `base` is what the database says of the base: base_id, manifest, weights, files.
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
        database = Database(temporary / "meta.db", create=True)
        try:
            with database.write() as connection:
                _fill(connection, base, first, state)
        finally:
            # the last connection to close moves the write-ahead log into the file: the directory is then safe to rename
            database.close()


def _fill(connection: Connection, base: Mapping[str, str], first: Commit, state: StateId) -> None:
    create_schema(connection)
    rows = {"head": "heads/main", **base}
    connection.execute(insert(meta), [{"key": key, "value": value} for key, value in rows.items()])
    insert_commit(connection, first, state)
    connection.execute(insert(refs).values(name="heads/main", commit=first.id))
    after = {"heads/main": first.id}, "heads/main"
    append_operation(connection, verb="init", description=first.message, before=({}, ""), after=after)
