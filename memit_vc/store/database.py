"""The connection to SQLite (WAL, synchronous=FULL, foreign keys on), and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Column, Connection, Engine, Row, Select, Table, create_engine, event, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from memit_vc.errors import IntegrityError, LockedError, MemitVCError, StorageError
from memit_vc.store.journal import REBUILD

BUSY_SECONDS = 30.0
_DAMAGE = ("not a database", "malformed", "no such table", "no such column", "could not decode")
_T = TypeVar("_T")
_Id = TypeVar("_Id", bound=str)
# SQLite allows 32,766 variables in a statement
_VARIABLES = 16_000


class Database:
    """One repository's database. `read` and `write` give a connection inside one transaction each."""

    def __init__(self, path: Path, *, create: bool = False, busy_seconds: float = BUSY_SECONDS) -> None:
        """`path` is a SQLite file. With `create` it may be absent."""
        if not create and not path.is_file():
            raise IntegrityError(f"{path} is missing", hint=REBUILD)
        self.path = path
        self.busy_seconds = busy_seconds
        self.engine = _sqlite(path, create, busy_seconds)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent snapshot."""
        with self._errors(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that holds the write lock from its start; committed at the end, or rolled back by any error.

        LockedError if another process holds the lock for longer than `busy_seconds`.
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
        low = reason.lower()
        if "is locked" in low or "busy" in low:
            return LockedError(
                f"{self.path}: another process has been writing for more than {self.busy_seconds:g} s",
                hint="Wait for the other command to end and try again.",
            )
        if any(word in low for word in _DAMAGE):
            return IntegrityError(f"{self.path}: {reason}", hint=REBUILD)
        if any(word in low for word in ("disk is full", "disk full")):
            return StorageError(
                f"{self.path}: no space left on the device", hint="Free some space; nothing was changed."
            )
        if any(word in low for word in ("readonly", "unable to open", "disk i/o")):
            return StorageError(f"{self.path}: {reason}", hint="Check the permissions and the space of this path.")
        if isinstance(error.orig, sqlite3.IntegrityError):
            return IntegrityError(f"{self.path}: the rows contradict each other: {reason}", hint="Run `memitvc fsck`.")
        return StorageError(f"{self.path}: {reason}", hint="Check the disk and run the command again.")


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

    # if nothing can be written, each transaction looks again whether a writer has come meanwhile
    writable = create or os.access(path.parent, os.W_OK)
    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool if writable else NullPool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("memitvc_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def chunked(values: Collection[_T], size: int = _VARIABLES) -> Iterator[list[_T]]:
    """`values` in lists short enough for one statement's variables."""
    listed = list(values)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


def rows_with(
    connection: Connection, statement: Select[Any], column: Column[str], values: Collection[str]
) -> Iterator[Row[Any]]:
    """The rows of `statement` that have one of `values` in `column`, however many values there are."""
    for part in chunked(values):
        yield from connection.execute(statement.where(column.in_(part)))


def known(connection: Connection, column: Column[str], values: Collection[_Id]) -> set[_Id]:
    """Those of `values` that some row has in `column`."""
    found = {row[0] for row in rows_with(connection, select(column).distinct(), column, values)}
    return {value for value in values if value in found}


def insert_missing(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, leaving alone those whose primary key is there already."""
    if rows:
        connection.execute(insert(table).on_conflict_do_nothing(), rows)
