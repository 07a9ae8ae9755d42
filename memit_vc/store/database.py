"""The connection: SQLite (WAL, synchronous=FULL, foreign keys on) or PostgreSQL, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool, QueuePool

from memit_vc.errors import IntegrityError, LockedError, MemitVCError, StorageError

__all__ = ["BUSY_SECONDS", "Database", "chunked", "insert_missing"]

BUSY_SECONDS = 30.0
_T = TypeVar("_T")
# SQLite allows 32,766 variables in a statement and PostgreSQL 65,535
_VARIABLES = 16_000


class Database:
    """One repository's database. `read` and `write` give a connection inside one transaction each."""

    def __init__(self, place: Path | str, *, create: bool = False, busy_seconds: float = BUSY_SECONDS) -> None:
        """`place` is a SQLite file, or the URL of a server's database. With `create` the file may be absent."""
        self.place = place
        self.busy_seconds = busy_seconds
        if isinstance(place, Path):
            if not create and not place.is_file():
                raise IntegrityError(f"{place} is missing", hint="Restore it from a backup of the repository.")
            self.engine = _sqlite(place, create, busy_seconds)
        else:
            self.engine = _server(place, busy_seconds)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent snapshot."""
        with self._errors(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that holds the write lock from its start; committed at the end, or rolled back by any error.

        LockedError where another process holds the lock for longer than `busy_seconds`.
        """
        with (
            self._errors(),
            self.engine.connect().execution_options(memitvc_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self._translate(error) from error

    def _translate(self, error: DBAPIError) -> MemitVCError:
        reason = str(error.orig).strip()
        where = (
            self.place if isinstance(self.place, Path) else make_url(self.place).render_as_string(hide_password=True)
        )
        low = reason.lower()
        # 55P03 is PostgreSQL's lock_not_available
        if "is locked" in low or "busy" in low or getattr(error.orig, "sqlstate", None) == "55P03":
            return LockedError(
                f"{where}: another process has been writing for more than {self.busy_seconds:g} s",
                hint="Wait for the other command to end and try again.",
            )
        if any(word in low for word in ("not a database", "malformed", "no such table", "no such column")):
            return IntegrityError(f"{where}: {reason}", hint="Restore the file from a backup; the objects are intact.")
        if any(word in low for word in ("disk is full", "disk full")):
            return StorageError(f"{where}: no space left on the device", hint="Free some space; nothing was changed.")
        if any(word in low for word in ("readonly", "unable to open", "disk i/o")):
            return StorageError(f"{where}: {reason}", hint="Check the permissions and the space of this path.")
        if isinstance(error.orig, sqlite3.IntegrityError) or getattr(error.orig, "sqlstate", "")[:2] == "23":
            return IntegrityError(f"{where}: the rows contradict each other: {reason}", hint="Run `memitvc fsck`.")
        return StorageError(f"{where}: {reason}", hint="Check that the database can be reached.")


def _sqlite(path: Path, create: bool, busy_seconds: float) -> Engine:
    place = f"file:{quote(str(path.absolute()))}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(f"{place}?{mode()}", uri=True, timeout=busy_seconds, check_same_thread=False)
        # transactions are opened by the "begin" event below, never by the driver's own guess
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        if create:
            connection.execute("PRAGMA journal_mode=WAL")
        return connection

    def mode() -> str:
        if create:
            return "mode=rwc"
        if os.access(path.parent, os.W_OK):
            return "mode=rw"
        # a reader who may not write here cannot make the log's index; with no log there is nothing it could miss
        return "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"

    # where nothing can be written, each transaction looks again whether a writer has come meanwhile
    writable = create or os.access(path.parent, os.W_OK)
    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool if writable else NullPool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("memitvc_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _server(url: str, busy_seconds: float) -> Engine:
    if url.startswith("sqlite"):
        raise MemitVCError(
            "[database] url in config.toml names a SQLite file; a repository has its own, .memitvc/meta.db",
            hint="Remove the line (a file in use becomes .memitvc/meta.db); for a team, give a PostgreSQL URL.",
        )
    try:
        engine = create_engine(url)
    except (ArgumentError, NoSuchModuleError) as error:
        raise MemitVCError(
            f"[database] url in config.toml is not a database URL: {error}",
            hint="For example postgresql+psycopg://user@host/name.",
        ) from error
    except ModuleNotFoundError as error:
        raise MemitVCError(
            f"the driver of the database URL is not installed: {error.name}",
            hint="For a postgresql+psycopg:// URL: pip install 'psycopg[binary]'",
        ) from error

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if engine.dialect.name != "postgresql":
            return
        if connection.get_execution_options().get("memitvc_write"):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(busy_seconds * 1000)}")
            # one writer at a time, as in SQLite: a compare-and-swap is then a simple read and write
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('memitvc'))")
        else:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    return engine


def chunked(values: Collection[_T], size: int = _VARIABLES) -> Iterator[list[_T]]:
    """`values` in lists short enough for one statement's variables."""
    listed = list(values)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


def insert_missing(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, leaving alone those whose primary key is there already."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        connection.execute(postgresql.insert(table).on_conflict_do_nothing(), rows)
    else:
        from sqlalchemy.dialects import sqlite

        connection.execute(sqlite.insert(table).on_conflict_do_nothing(), rows)
