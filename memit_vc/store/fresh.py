"""A directory that appears whole under its name or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memit_vc.errors import UsageError
from memit_vc.store.files import make_directories, publish_directory, storage_errors, temporary_path
from memit_vc.store.shards import clear_abandoned

__all__ = ["fresh_directory", "refuse_inside_repository"]


def refuse_inside_repository(out: Path) -> None:
    """UsageError for a place in `.memitvc` that a user named: nothing but the repository's own files belongs there."""
    with storage_errors(out):
        place = out.resolve()
    if any((each / "meta.db").is_file() or (each / "format").is_file() for each in _named(place)):
        raise UsageError(f"{out}: is inside the repository's own directory", hint="Choose a place outside of .memitvc.")


def _named(place: Path) -> list[Path]:
    return [each for each in (place, *place.parents) if each.name == ".memitvc"]


@contextmanager
def fresh_directory(out: Path) -> Iterator[Path]:
    """A temporary directory beside `out`, which takes that name when the block ends well.

    UsageError where `out` exists and is not an empty directory; StorageError where the system refuses, in the block
    too, and nothing is left then.
    """
    with storage_errors(out):
        if out.is_symlink() and not out.exists():
            raise UsageError(
                f"{out}: is a symbolic link to {out.readlink()}, which is not there", hint="Remove it, or name another."
            )
        if out.exists() and not out.is_dir():
            raise UsageError(f"{out}: is a file", hint="Choose another name for the directory.")
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise UsageError(
                f"{out}: exists and is not empty", hint="Choose another directory; nothing is overwritten."
            )
    clear_abandoned(out)
    temporary = temporary_path(out)
    try:
        with storage_errors(out):
            make_directories(out.parent)
            temporary.mkdir()
            yield temporary
            if out.is_dir():
                out.rmdir()  # empty, as seen above; anything that came since is not lost
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    publish_directory(temporary, out)
