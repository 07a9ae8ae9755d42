"""Hashes of tensors already computed, by what the file system says of their file. Safe to delete."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeAlias

from memit_vc.store.jsoncache import read_or_empty, write_if_possible

__all__ = ["HashCache", "Stat", "file_stat"]

Stat: TypeAlias = "list[int]"
"""[size in bytes, modification time in ns, inode]"""

_KEEP = 2000
"""Files remembered; the oldest are forgotten first."""


def file_stat(path: Path) -> Stat:
    """The stat of the file behind any symlink; OSError as the system raises it."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


class HashCache:
    """A JSON file {stat: {tensor: SHA-256}}; without a path it remembers nothing. A damaged file counts as empty."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries: dict[str, Any] = {} if path is None else read_or_empty(path)
        self._changed = False

    def get(self, stat: Stat, names: Collection[str]) -> dict[str, str] | None:
        """Hashes of a file's tensors, if all of `names` are known for this very stat."""
        found = self._entries.get(_key(stat))
        if isinstance(found, dict) and set(found) == set(names):
            return {str(name): str(sha) for name, sha in found.items()}
        return None

    def put(self, stat: Stat, hashes: dict[str, str]) -> None:
        self._entries.pop(_key(stat), None)
        self._entries[_key(stat)] = hashes
        self._changed = True

    def save(self) -> None:
        """Write what was added."""
        if self._path is not None and self._changed:
            write_if_possible(self._path, dict(list(self._entries.items())[-_KEEP:]))


def _key(stat: Stat) -> str:
    return ":".join(str(number) for number in stat)
