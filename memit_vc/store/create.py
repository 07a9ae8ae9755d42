"""A new `.memitvc`: built beside its final name, renamed into place when it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sqlalchemy import Connection, insert

from memit_vc.config import Config
from memit_vc.errors import MemitVCError
from memit_vc.objects import BaseManifest, Commit, EditableWeight, canonical_json
from memit_vc.store.database import Database
from memit_vc.store.files import (
    is_temporary,
    make_directories,
    publish_directory,
    storage_errors,
    temporary_path,
    write_atomic,
    writer_is_alive,
)
from memit_vc.store.migrate import create_schema
from memit_vc.store.publish import StateHash
from memit_vc.store.rows_history import insert_commit
from memit_vc.store.rows_refs import append_operation
from memit_vc.store.schema import meta, refs

__all__ = ["FORMAT", "create"]

FORMAT = "1"


def create(
    root: Path,
    *,
    config: Config,
    manifest: BaseManifest,
    weights: Sequence[EditableWeight],
    files: Mapping[str, str],
    hparams: bytes,
    first: Commit,
    state_hash: StateHash,
) -> None:
    """Make the repository `root` with the one commit `first`, on branch main. MemitVCError where `root` exists."""
    with storage_errors(root):
        taken = root.exists() or root.is_symlink()
        what = "a repository" if taken and (root / "format").is_file() else "something that is not a repository"
    if taken:
        raise MemitVCError(
            f"{root} exists already and holds {what}",
            hint="Work in it, or name another directory: `memitvc init BASE DIR`.",
        )

    def fill(connection: Connection) -> None:
        create_schema(connection)
        rows = {
            "head": "heads/main",
            "base_id": manifest.id,
            "manifest": canonical_json(manifest.to_json()).decode(),
            "weights": canonical_json([w.to_json() for w in weights]).decode(),
            "files": canonical_json(dict(files)).decode(),
        }
        connection.execute(insert(meta), [{"key": key, "value": value} for key, value in rows.items()])
        insert_commit(connection, first, state_hash(()))
        connection.execute(insert(refs).values(name="heads/main", commit=first.id))
        after = {"heads/main": first.id}, "heads/main"
        append_operation(connection, verb="init", description=first.message, before=({}, ""), after=after)

    with storage_errors(root):
        make_directories(root.parent)
        _remove_leftovers(root)
    temporary = temporary_path(root)
    try:
        with storage_errors(root):
            for name in ("objects", "statistics", "cache"):
                (temporary / name).mkdir(parents=True)
        write_atomic(temporary / "format", f"{FORMAT}\n".encode())
        write_atomic(temporary / "config.toml", config.dump())
        write_atomic(temporary / "hparams.yaml", hparams)
        _fill(Database(temporary / "meta.db", create=True), fill)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    publish_directory(temporary, root)


def _fill(database: Database, fill: Callable[[Connection], None]) -> None:
    try:
        with database.write() as connection:
            fill(connection)
    finally:
        # the last connection to close moves the write-ahead log into the file: the directory is then safe to rename
        database.close()


def _remove_leftovers(root: Path) -> None:
    """What a killed `init` left beside `root`."""
    for path in list(root.parent.iterdir()):
        if is_temporary(path, root) and not writer_is_alive(path):
            shutil.rmtree(path, ignore_errors=True)
