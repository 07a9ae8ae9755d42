"""The journal beside the database: one line for each transaction that changed the history, only ever appended.

The database holds the newest line, too (table `meta`, key `journal`). A transaction commits first; then its line is
appended. So a journal that is one line short was cut off by a crash, and the next writer appends the line. A database
that lacks the journal's last line has gone back in time.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memit_vc.errors import IntegrityError, LockedError
from memit_vc.objects import JsonValue, canonical_json, digest
from memit_vc.store.files import fsync, storage_errors, write_atomic

REBUILD = "Run `memitvc fsck --rebuild`: it makes meta.db again from the objects and the journal."
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Entry:
    """One line: its number, the digest of the line before, and what the transaction did (docs/format.md)."""

    number: int
    previous: str
    body: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return digest("journal", canonical_json(self._content()))

    @property
    def line(self) -> str:
        return canonical_json({**self._content(), "digest": self.digest}).decode()

    def next(self, body: Mapping[str, JsonValue]) -> Entry:
        return Entry(self.number + 1, self.digest, body)

    @classmethod
    def parse(cls, line: str | bytes) -> Entry | None:
        """None for a line that is cut or damaged."""
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            record = json.loads(line)
            found = cls(int(record["n"]), str(record["previous"]), dict(record["did"]))
            if found.digest == record["digest"]:
                return found
        return None

    def _content(self) -> dict[str, JsonValue]:
        return {"n": self.number, "previous": self.previous, "did": self.body}


FIRST = Entry(0, "", {})
"""What the first line of a repository follows."""


class Journal:
    """The file `.memitvc/journal`."""

    def __init__(self, path: Path, *, busy_seconds: float) -> None:
        self.path = path
        self.busy_seconds = busy_seconds

    def tail(self) -> Entry | None:
        """The last whole line; None if there is none."""
        if not self.path.is_file():
            return None
        with storage_errors(self.path), self.path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            data, block = b"", _BLOCK
            while end:
                start = max(0, end - block)
                file.seek(start)
                data, end, block = file.read(end - start) + data, start, block * 2
                lines = data.split(b"\n")
                for line in reversed(lines if start == 0 else lines[1:]):
                    if line and (found := Entry.parse(line)) is not None:
                        return found
        return None

    def entries(self) -> list[Entry]:
        """Every whole line, in order of their numbers, each once."""
        found: dict[int, Entry] = {}
        if self.path.is_file():
            with storage_errors(self.path), self.path.open("rb") as file:
                for line in file:
                    if (entry := Entry.parse(line)) is not None:
                        found[entry.number] = entry
        return [found[number] for number in sorted(found)]

    def check(self, newest: Entry) -> None:
        """IntegrityError if the database, whose newest line is `newest`, has gone back in time."""
        self.compare(self.tail(), newest)

    def compare(self, tail: Entry | None, newest: Entry) -> None:
        """As `check`. `tail` was read before `newest`, so that a writer in between does no harm."""
        if tail is None or tail.number < newest.number or tail.digest == newest.digest:
            return
        lacking = tail.number - newest.number
        raise IntegrityError(
            f"{self.path.with_name('meta.db')} is older than the journal beside it: "
            + (f"it lacks the last {lacking} changes" if lacking > 1 else "it lacks the last change"),
            hint=REBUILD,
        )

    def settle(self, newest: Entry) -> None:
        """To be called under the database's lock, before a change: the line of a writer that died is appended.

        IntegrityError if journal and database do not tell the same story.
        """
        self.check(newest)
        self.append(newest)

    def append(self, entry: Entry) -> None:
        """Append a line durably if it follows the last one. IntegrityError if it does not, and is not there either."""
        with self._locked() as descriptor, storage_errors(self.path):
            tail = self.tail() or FIRST
            if (tail.number + 1, tail.digest) != (entry.number, entry.previous):
                self._check_has(entry, tail)
                return
            size = os.fstat(descriptor).st_size
            # the rest of a line that was cut off must not run into this one
            broken = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            data = memoryview(b"\n" * broken + entry.line.encode() + b"\n")
            while data:
                data = data[os.write(descriptor, data) :]
            fsync(descriptor)

    def rewrite(self, entries: Sequence[Entry]) -> None:
        """Replace the whole file: for a journal that was lost."""
        write_atomic(self.path, "".join(f"{entry.line}\n" for entry in entries).encode())

    def _check_has(self, entry: Entry, tail: Entry) -> None:
        if tail.number < entry.number:
            raise IntegrityError(
                f"{self.path} lacks lines that the database has",
                hint="Run `memitvc fsck --rebuild`: it writes the journal again from meta.db.",
            )
        if tail.digest != entry.digest and all(each.digest != entry.digest for each in self.entries()):
            raise IntegrityError(
                f"{self.path}: its line {entry.number} is another command's, so this change is lost",
                hint="Look at `memitvc log`, and run the command again.",
            )

    @contextmanager
    def _locked(self) -> Iterator[int]:
        with storage_errors(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            deadline = time.monotonic() + self.busy_seconds
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise LockedError(
                            f"{self.path}: another process has held it for more than {self.busy_seconds:g} s",
                            hint="Wait for the other command to end and try again.",
                        ) from error
                    time.sleep(0.01)
            yield descriptor
        finally:
            os.close(descriptor)
