"""Records that a transaction is about to name: a commit that was never made differs from one that was lost.

A file in `unfinished/` names the records before they are stored, and goes when the rows are there. If the process dies
in between, the file says that nobody was told of these commits.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from memit_vc.concurrency import ordered_map
from memit_vc.objects import BlobId, is_sha256
from memit_vc.store.blobs import BlobStore, blob_id
from memit_vc.store.files import fsync, storage_errors


def store_records(stack: ExitStack, directory: Path, blobs: BlobStore, records: Sequence[bytes]) -> None:
    """Store what rows are about to name. Until `stack` is closed it counts as unfinished."""
    stack.enter_context(_unfinished(directory, [blob_id(record) for record in records]))
    if len(records) == 1:
        blobs.put(records[0])
    else:
        list(ordered_map(blobs.put, records))


@contextmanager
def _unfinished(directory: Path, records: Sequence[BlobId]) -> Iterator[None]:
    """The file is there while the block runs, and stays if it fails: then the records are rubbish."""
    path = directory / f"{os.getpid()}-{secrets.token_hex(6)}.json"
    with storage_errors(path):
        directory.mkdir(exist_ok=True)
        with path.open("w") as file:
            file.write(json.dumps(sorted(records)))
            file.flush()
            fsync(file.fileno())  # else, after a loss of power, the records pass for lost commits
    yield
    with suppress(OSError):
        path.unlink()


def unfinished_records(directory: Path) -> set[BlobId]:
    found: set[BlobId] = set()
    for path in _files(directory):
        with suppress(OSError, ValueError, TypeError):
            found.update(BlobId(name) for name in json.loads(path.read_bytes()) if is_sha256(name))
    return found


def forget_unfinished(directory: Path, stored: Collection[BlobId], grace: float) -> None:
    """For `gc`: remove the files of which no record without a row is stored any more."""
    for path in _files(directory):
        with suppress(OSError, ValueError, TypeError):
            if time.time() - path.stat().st_mtime >= grace and not set(json.loads(path.read_bytes())) & set(stored):
                path.unlink()


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.json")) if directory.is_dir() else []
