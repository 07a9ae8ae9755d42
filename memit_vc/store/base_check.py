"""Whether a built `base/` still holds the base's bytes.

A checkout shares the cold shards (hard links), and its owner may write into them. So a file is believed only while its
stamp is the one that it had when its bytes were last known; otherwise it is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memit_vc.errors import IntegrityError, StorageError
from memit_vc.objects import BaseManifest, JsonValue, canonical_json
from memit_vc.store.files import file_digest, write_atomic
from memit_vc.store.hashcache import Stat, file_stat
from memit_vc.store.safetensors_file import read_header

if TYPE_CHECKING:
    from memit_vc.store.shards import ShardedBase

__all__ = ["FILES", "HOT_FILE", "damaged_files", "shard_files", "stale_files", "stamp_files"]

HOT_FILE = "model-hot.safetensors"
FILES = "files"
_STAMPS = "stamps.json"
"""Path below the directory -> [size, mtime, inode] that it had when its bytes were last known."""
_CHUNK = 1 << 23


def shard_files(base: ShardedBase) -> list[str]:
    """Every file that a checkout takes bytes from, relative to the directory."""
    return [HOT_FILE, *base.cold, *(f"{FILES}/{name}" for name in base.other_files)]


def stamp_files(base: ShardedBase) -> None:
    """Remember the files' present stamps; that they cannot be written is no error, they only save time."""
    stamps: dict[str, JsonValue] = {}
    with contextlib.suppress(OSError, StorageError):
        for file in shard_files(base):
            stamps[file] = list(file_stat(base.directory / file))
        write_atomic(base.directory / _STAMPS, canonical_json(stamps))


def stale_files(base: ShardedBase) -> list[str]:
    """The files whose stamp is a new one, or that are gone: their bytes are to be looked at."""
    try:
        found: Any = json.loads((base.directory / _STAMPS).read_bytes())
    except (OSError, ValueError):
        found = {}
    stamps = found if isinstance(found, dict) else {}
    files = dict.fromkeys([*shard_files(base), *stamps])
    return [file for file in files if (now := _stat(base.directory / file)) is None or now != stamps.get(file)]


def damaged_files(
    base: ShardedBase, files: Iterable[str], manifest: BaseManifest, others: Mapping[str, str]
) -> list[str]:
    """Those of `files` that do not hold the bytes that `manifest` (tensors) and `others` (name -> SHA-256) promise.

    Of the other files, one that `others` does not know is believed.
    """
    damaged = []
    for file in files:
        path = base.directory / file
        if file == HOT_FILE or file in base.cold:
            whole = _holds(path, base.hot.keys() if file == HOT_FILE else base.cold[file], manifest)
        else:
            promised = others.get(file.removeprefix(f"{FILES}/"))
            try:
                whole = (promised is None and path.is_file()) or file_digest(path) == promised
            except OSError:
                whole = False
        if not whole:
            damaged.append(file)
    return damaged


def _stat(path: Path) -> Stat | None:
    try:
        return file_stat(path)
    except OSError:
        return None


def _holds(path: Path, names: Collection[str], manifest: BaseManifest) -> bool:
    """Whether a file holds exactly these tensors, each with the manifest's dtype, shape and bytes."""
    promised = {tensor.name: tensor for tensor in manifest.tensors}
    try:
        header = read_header(path)
        if header.tensors.keys() != set(names):
            return False
        with path.open("rb") as file:
            for name, entry in header.tensors.items():
                tensor = promised.get(name)
                if tensor is None or (tensor.dtype, tensor.shape) != (entry.dtype, entry.shape):
                    return False
                file.seek(header.data_start + entry.begin)
                sha, left = hashlib.sha256(), entry.size
                while left and (chunk := file.read(min(left, _CHUNK))):
                    sha.update(chunk)
                    left -= len(chunk)
                if sha.hexdigest() != tensor.sha256:
                    return False
    except (OSError, StorageError, IntegrityError):
        return False
    return True
