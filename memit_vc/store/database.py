"""The connection to SQLite (WAL, synchronous=FULL, foreign keys on), and what its errors mean."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Column, Connection, Engine, Row, Select, Table, create_engine, event, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool, StaticPool

from memit_vc.errors import IntegrityError, LockedError, MemitVCError, StorageError
from memit_vc.store.journal import REBUILD
from memit_vc.store.locks import locked_directory
from memit_vc.store.refusals import explained, obstacle

BUSY_SECONDS = 30.0
_DAMAGE = ("not a database", "malformed", "no such table", "no such column", "could not decode")
_T = TypeVar("_T")
_Id = TypeVar("_Id", bound=str)
# SQLite allows 32,766 variables in a statement
_VARIABLES = 16_000


class _Momentary(sqlite3.Connection):
    """A connection for one transaction: it sees the database as it was then, or has it for itself alone."""


class Database:
    """One repository's database. `read` and `write` give a connection inside one transaction each.

    Reading needs no writing: where SQLite cannot keep the index of its log beside the database, on a disk that is full
    or cannot be written, a database without a log is read as it lies there.

    IntegrityError in `read` and `write` if another file, or none, is at the path by now. SQLite would go on with the
    file that it opened, wherever that was moved; journal and objects are found by their paths.
    """

    def __init__(
        self, path: Path, *, create: bool = False, busy_seconds: float = BUSY_SECONDS, locked: bool = False
    ) -> None:
        """`path` is a SQLite file. With `create` it may be absent. `locked`: the caller has the lock of `in_place`."""
        if not create and not path.is_file():
            raise IntegrityError(f"{path} is missing", hint=REBUILD)
        self.path = path
        self.busy_seconds = busy_seconds
        self._mode = "mode=rwc" if create else "mode=rw"
        self._locked = locked
        self._opened: tuple[int, int] | None = None
        self.engine = _engine(self._connect)
        self._alone = _engine(self._exclusive)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent snapshot."""
        with self._errors(), self.engine.connect() as connection, connection.begin():
            self._check_place()
            yield connection

    @contextmanager
    def write(self, *, patience: float | None = None) -> Iterator[Connection]:
        """One transaction that holds the write lock from its start; committed at the end, or rolled back by any error.

        LockedError if another process holds the lock for longer than `patience` seconds, by default `busy_seconds`.
        """
        number = obstacle(self.path)
        if number in (errno.EROFS, errno.EACCES):
            raise self._refused(number)  # SQLite itself would begin, without the lock
        seconds = self.busy_seconds if patience is None else patience
        with self.in_place(seconds), self._errors(), self._writer() as connection:
            connection.execution_options(memitvc_write=seconds)
            with connection.begin():
                self._check_place()
                yield connection

    @contextmanager
    def in_place(self, patience: float | None = None) -> Iterator[None]:
        """In the block no `fsck --rebuild` replaces the file. All writers share this lock, on the file's directory.

        LockedError as for `write`.
        """
        if self._locked:
            yield
            return
        if not self.path.parent.is_dir():
            self._check_place()
        with locked_directory(
            self.path.parent,
            shared=True,
            wait=self.busy_seconds if patience is None else patience,
            busy=f"{self.path}: another command is making it again (`memitvc fsck --rebuild`)",
            hint="Wait for the other command to end and try again.",
        ):
            yield

    @contextmanager
    def trial(self) -> Iterator[Connection]:
        """A copy in memory, to see what a change would do: it needs no lock, and nothing that can be written."""
        with self.read() as connection, closing(sqlite3.connect(":memory:", check_same_thread=False)) as copy:
            original = connection.connection.dbapi_connection
            if not isinstance(original, sqlite3.Connection):
                raise AssertionError("the engine makes connections of sqlite3")
            original.backup(copy)
            copy.isolation_level = None
            with create_engine("sqlite://", creator=lambda: copy, poolclass=StaticPool).connect() as trial:
                yield trial

    def check_writable(self) -> None:
        """StorageError if nothing can be written: for verbs that compute first. Somebody else may be writing now."""
        with suppress(LockedError), self.write(patience=0):
            pass

    def close(self) -> None:
        self.engine.dispose()
        self._alone.dispose()

    def _writer(self) -> Connection:
        connection = self.engine.connect()
        if isinstance(connection.connection.dbapi_connection, _Momentary):
            connection.close()  # a full disk: `gc` must get the lock there all the same
            return self._alone.connect()
        return connection

    def _connect(self) -> sqlite3.Connection:
        writable = self._mode == "mode=rwc" or os.access(self.path.parent, os.W_OK)
        try:
            return self._open(self._mode if writable else "mode=ro", momentary=not writable)
        except sqlite3.OperationalError as error:
            if not _is_refusal(str(error)):
                raise
            if not self._log_is_empty():
                return self._exclusive()
            return self._open("mode=ro&immutable=1", momentary=True)

    def _exclusive(self) -> sqlite3.Connection:
        """A connection with the database for itself: it needs no index of the log that others could read."""
        return self._open("mode=rw", "PRAGMA locking_mode=EXCLUSIVE", momentary=True)

    def _open(self, mode: str, *more: str, momentary: bool = False) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self.path.absolute()))}?{mode}",
            uri=True,
            timeout=self.busy_seconds,
            check_same_thread=False,
            factory=_Momentary if momentary else sqlite3.Connection,
        )
        try:
            # transactions are opened by the "begin" event below, never by the driver's own guess
            connection.isolation_level = None
            settings = ["synchronous=FULL", "foreign_keys=ON", *(["journal_mode=WAL"] if "rwc" in mode else [])]
            # the last one looks into the file, and so says at once whether it can be read in this mode
            for statement in (*more, *(f"PRAGMA {setting}" for setting in settings), "PRAGMA schema_version"):
                connection.execute(statement)
            # only now: some file systems copy a file, to another inode, when it is opened for writing
            self._opened = self._opened or self._at_path()
        except BaseException:
            connection.close()
            raise
        return connection

    def _at_path(self) -> tuple[int, int] | None:
        """Device and inode of the file that is at the path now."""
        with suppress(OSError):
            found = self.path.stat()
            return found.st_dev, found.st_ino
        return None

    def _check_place(self) -> None:
        found = self._at_path()
        if found is None or found != self._opened:
            now = "can no longer be found" if found is None else "is another file now"
            raise IntegrityError(
                f"{self.path} {now}: it was moved or replaced while this command had it open",
                hint="Start the command again, in the repository that you mean.",
            )

    def _log_is_empty(self) -> bool:
        try:
            return self.path.with_name(f"{self.path.name}-wal").stat().st_size == 0
        except FileNotFoundError:
            return True

    def _refused(self, number: int | None, reason: str = "") -> StorageError:
        said, hint = explained(self.path, number, reason if number is None else os.strerror(number))
        return StorageError(f"{self.path}: {said}", hint=hint)

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
        if _is_refusal(low):
            number = obstacle(self.path)
            if number == errno.EROFS and not self._log_is_empty():
                return StorageError(
                    f"{self.path}-wal holds changes, and they can only be read where SQLite can write beside it",
                    hint="Run the command on a copy, on a disk that can be written.",
                )
            return self._refused(errno.ENOSPC if number is None and "full" in low else number, reason)
        if isinstance(error.orig, sqlite3.IntegrityError):
            return IntegrityError(f"{self.path}: the rows contradict each other: {reason}", hint="Run `memitvc fsck`.")
        return StorageError(f"{self.path}: {reason}", hint="Check the disk and run the command again.")


def _is_refusal(reason: str) -> bool:
    """Whether SQLite says that the system refused, of which it knows no more."""
    low = reason.lower()
    return any(word in low for word in ("readonly", "unable to open", "disk i/o", "disk is full", "disk full"))


def _engine(connect: Callable[[], sqlite3.Connection]) -> Engine:
    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        patience = connection.get_execution_options().get("memitvc_write")
        if patience is not None:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={int(1000 * patience)}")
        connection.exec_driver_sql("BEGIN" if patience is None else "BEGIN IMMEDIATE")

    @event.listens_for(engine, "checkin")
    def _given_back(connection: object, record: ConnectionPoolEntry) -> None:
        if isinstance(connection, _Momentary):
            record.invalidate()

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
        yield from connection.execute(statement.where(column.in_(part))).all()


def known(connection: Connection, column: Column[str], values: Collection[_Id]) -> set[_Id]:
    """Those of `values` that some row has in `column`."""
    found = {row[0] for row in rows_with(connection, select(column).distinct(), column, values)}
    return {value for value in values if value in found}


def insert_missing(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, leaving alone those whose primary key is there already."""
    if rows:
        connection.execute(insert(table).on_conflict_do_nothing(), rows)
