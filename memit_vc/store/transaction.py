"""A change of the history: rows and the journal's line, in one transaction of the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from sqlalchemy import Connection

from memit_vc.errors import LockedError, StorageError
from memit_vc.objects import JsonValue
from memit_vc.store.database import Database
from memit_vc.store.journal import FIRST, Entry, Journal
from memit_vc.store.parsed import bad_row
from memit_vc.store.rows_refs import read_meta, write_meta


def newest_entry(connection: Connection) -> Entry:
    """The journal's line of the last change that the database has. IntegrityError."""
    found = Entry.parse(read_meta(connection, "journal"))
    if found is None:
        raise bad_row("meta", "journal", "its line of the journal cannot be read")
    return found


def completed(entries: Sequence[Entry], newest: Entry) -> list[Entry]:
    """The journal's lines with that of a writer who died before it could append its own."""
    last = entries[-1] if entries else FIRST
    follows = newest.number == last.number + 1 and newest.previous == last.digest
    return [*entries, newest] if follows else list(entries)


@contextmanager
def changing(database: Database, journal: Journal) -> Iterator[tuple[Connection, dict[str, JsonValue]]]:
    """A connection under the write lock, and a dictionary in which the block notes what the journal must say.

    IntegrityError, before the block, if journal and database do not tell the same story. If the process dies between
    the commit and the journal's line, or the line cannot be written, the next change writes it.
    """
    did: dict[str, JsonValue] = {}
    with database.in_place():  # until the journal has the line: a rebuild goes by the journal
        with database.write() as connection:
            newest = newest_entry(connection)
            journal.settle(newest)
            yield connection, did
            made = newest.next(did)
            if did:
                write_meta(connection, "journal", made.line)
        if did:
            with suppress(StorageError, LockedError):  # what was done stands
                journal.append(made)
