"""Revisions of the schema. Alembic is imported only by `upgrade`: an ordinary command compares one string."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select

from memit_vc.config import data_directory
from memit_vc.errors import IntegrityError, MemitVCError
from memit_vc.objects import utc_now
from memit_vc.store.files import replacing
from memit_vc.store.journal import REBUILD
from memit_vc.store.schema import metadata

if TYPE_CHECKING:
    from memit_vc.store.database import Database


HEAD_REVISION = "0002"
"""The newest file in migrations/versions/; a test holds the two together."""


def _version_table() -> Table:
    # Alembic's own table, as its runtime declares it; kept out of `metadata`, which Alembic compares
    return Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def create_schema(connection: Connection) -> None:
    """All tables at the head revision, in the caller's transaction, which is on an empty database."""
    metadata.create_all(connection)
    version = _version_table()
    version.create(connection)
    connection.execute(insert(version).values(version_num=HEAD_REVISION))


def current_revision(connection: Connection) -> str:
    """IntegrityError if the database has none: it is not one of ours."""
    version = _version_table()
    if not inspect(connection).has_table(version.name):
        raise IntegrityError("the database holds no repository", hint=REBUILD)
    found = connection.execute(select(version.c.version_num)).scalars().all()
    if len(found) != 1:
        raise IntegrityError(f"the database has {len(found)} schema revisions, not one", hint=REBUILD)
    return str(found[0])


def check_revision(connection: Connection) -> None:
    """Refuse a database of another revision, saying which side to upgrade."""
    found = current_revision(connection)
    if found == HEAD_REVISION:
        return
    if _is_older(found):
        raise MemitVCError(
            f"the repository's database is at revision {found}, this version needs {HEAD_REVISION}",
            hint="Run `memitvc upgrade`; it makes a backup first.",
        )
    if not found.isdigit():
        raise IntegrityError(f"the repository's database has no schema revision but {found!r}", hint=REBUILD)
    raise MemitVCError(
        f"the repository's database is at revision {found}, which this version of memit-vc does not know",
        hint="Upgrade memit-vc.",
    )


def _is_older(revision: str) -> bool:
    return revision.isdigit() and int(revision) < int(HEAD_REVISION)


def upgrade_schema(database: Database) -> tuple[str, str, Path | None]:
    """Bring a database to the head revision, after a backup beside it; (revision before, revision after, backup)."""
    with database.read() as connection:
        before = current_revision(connection)
        if not _is_older(before):
            check_revision(connection)
            return before, before, None
    backup = _backup(database.path, before)
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(data_directory("migrations")).replace("%", "%%"))
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, HEAD_REVISION, backup


def _backup(path: Path, revision: str) -> Path:
    """A consistent copy through SQLite's own backup, WAL included."""
    target = path.with_name(f"{path.name}.backup-{revision}-{utc_now().replace(':', '')}")
    with replacing(target) as temporary:
        source, copy = sqlite3.connect(path), sqlite3.connect(temporary)
        try:
            source.backup(copy)
        finally:
            source.close()
            copy.close()
    return target
