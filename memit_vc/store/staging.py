"""A repository in the making: a directory beside its final place, locked, which an interrupted command finds again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from memit_vc.errors import LockedError, MemitVCError
from memit_vc.store.files import fsync_path, make_directories, storage_errors
from memit_vc.store.locks import locked_directory


class Staging:
    """`at` is the directory in the making, inside of `place`, where the repository will be."""

    def __init__(self, place: Path, name: str, hint: str) -> None:
        self.place, self.at, self._hint = place, place / name, hint
        self._existed = place.exists()

    @property
    def root(self) -> Path:
        return self.at / ".memitvc"

    def finish(self) -> None:
        """Rename the closed repository into its place. MemitVCError if `init`, which has no staging, was faster."""
        with storage_errors(self.place):
            _check_absent(self.place, self._hint)
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
        _check_absent(place, hint)
        if place.is_dir() and any(entry.name != name for entry in place.iterdir()):
            raise MemitVCError(f"{place} is not empty", hint=hint)


def _check_absent(place: Path, hint: str) -> None:
    if (place / ".memitvc").exists():
        raise MemitVCError(f"{place / '.memitvc'} exists already", hint=hint)


@contextmanager
def staging(place: Path, name: str, *, doing: str, hint: str) -> Iterator[Staging]:
    """The staging directory `name` of `place`; LockedError, with what another process is `doing`, if that has it.

    Errors of `check_free`, with `hint`, if another process has finished since the caller looked.
    """
    made = Staging(place, name, hint)
    with storage_errors(made.at):
        make_directories(made.at)
    busy, wait = f"another command is {doing} {place}", "Wait until it is done."
    with locked_directory(made.at, wait=0, busy=busy, hint=wait) as held:
        try:
            same = os.path.samestat(os.fstat(held), made.at.stat())
        except FileNotFoundError:
            same = False
        if not same:
            raise LockedError(busy, hint=wait)  # which has just removed it
        try:
            check_free(place, name, hint=hint)
        except MemitVCError:
            with suppress(OSError):
                made.at.rmdir()  # it is empty, unless an earlier try left its work there
            raise
        yield made
