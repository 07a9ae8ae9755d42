"""A directory that appears whole under its name or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memit_vc.errors import UsageError
from memit_vc.store.files import is_free, new_directory, storage_errors


def refuse_inside_repository(out: Path) -> None:
    """UsageError for a place in `.memitvc` that a user named: nothing but the repository's own files belongs there."""
    with storage_errors(out):
        place = out.resolve()
    named = (each for each in (place, *place.parents) if each.name == ".memitvc")
    if any((each / "meta.db").is_file() or (each / "format").is_file() for each in named):
        raise UsageError(f"{out}: is inside the repository's own directory", hint="Choose a place outside of .memitvc.")


@contextmanager
def fresh_directory(out: Path) -> Iterator[Path]:
    """A temporary directory beside `out`, which takes that name when the block ends well.

    UsageError if `out` exists and is not an empty directory; StorageError if the system refuses, in the block
    too, and nothing is left then.
    """
    if not is_free(out):
        raise UsageError(f"{out}: exists and is not empty", hint="Choose another directory; nothing is overwritten.")
    with new_directory(out) as temporary:
        yield temporary
