"""A repository in the making: a directory beside its final place, locked, which an interrupted command finds again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from memit_vc.errors import LockedError, MemitVCError
from memit_vc.store.files import fsync_path, make_directories, storage_errors


class Staging:
    """`at` is the directory in the making, inside of `place`, where the repository will be."""

    def __init__(self, place: Path, name: str) -> None:
        self.place, self.at = place, place / name
        self._existed = place.exists()

    @property
    def root(self) -> Path:
        return self.at / ".memitvc"

    def finish(self) -> None:
        """Rename the closed repository into its place."""
        with storage_errors(self.place):
            self.root.rename(self.place / ".memitvc")
            fsync_path(self.place)
        shutil.rmtree(self.at, ignore_errors=True)

    def drop(self) -> None:
        """Leave nothing of the try, and not the place either if it is new."""
        shutil.rmtree(self.at, ignore_errors=True)
        if not self._existed:
            with suppress(OSError):
                self.place.rmdir()


def check_free(place: Path, name: str, *, hint: str) -> None:
    """MemitVCError, with `hint`, unless `place` is absent, empty, or holds only the staging directory `name`."""
    with storage_errors(place):
        if (place / ".memitvc").exists():
            raise MemitVCError(f"{place / '.memitvc'} exists already", hint=hint)
        if place.is_dir() and any(entry.name != name for entry in place.iterdir()):
            raise MemitVCError(f"{place} is not empty", hint=hint)


@contextmanager
def staging(place: Path, name: str, *, doing: str) -> Iterator[Staging]:
    """The staging directory `name` of `place`; LockedError, with what another process is `doing`, if that has it."""
    import fcntl  # Windows has none

    made = Staging(place, name)
    with storage_errors(made.at):
        make_directories(made.at)
        descriptor = os.open(made.at, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(f"another command is {doing} {place}", hint="Wait until it is done.") from error
        yield made
    finally:
        os.close(descriptor)
