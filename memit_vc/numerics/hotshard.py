"""The bytes of a state's hot shard, block by block in bounded memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeAlias

import torch

from memit_vc.errors import IntegrityError, StorageError
from memit_vc.numerics.blockwise import ordered_map
from memit_vc.numerics.materialise import STORAGE_DTYPES, Term, stored_shape
from memit_vc.numerics.update import Edit, Update
from memit_vc.objects import EditableWeight
from memit_vc.progress import Progress
from memit_vc.store.files import storage_errors
from memit_vc.store.safetensors_file import Entry, read_header

__all__ = ["StaleShardError", "copied_shard", "hot_shard"]

_CHUNK = 1 << 23
_UNHASHED = 4
"""Blocks that may wait for their hash."""


class StaleShardError(Exception):
    """A cached shard does not hold the bytes that its record promises."""


def hot_shard(
    base: Path,
    weights: Sequence[EditableWeight],
    terms: Callable[[str], Iterable[Term]],
    hashes: dict[str, str],
    progress: Progress,
) -> Iterator[bytes | memoryview]:
    """The file for a state: the base's hot shard, header and all, with the terms of each weight added.

    Blocks of all tensors go through one queue: while the caller writes one, others are read, computed and hashed, and
    the next tensor's terms are looked at. `terms(name)` may be iterated more than once, and on another thread.
    SHA-256 of each tensor is in `hashes` at the end. Errors as for `Update`.
    """
    header = read_header(base)
    by_name = {weight.name: weight for weight in weights}
    if by_name.keys() != header.tensors.keys():
        raise IntegrityError(
            f"{base}: holds {len(header.tensors)} tensors, the history knows {len(by_name)} editable weights",
            hint="Delete the directory; the next checkout builds it again from the base checkpoint.",
        )
    total, done = sum(entry.size for entry in header.tensors.values()), 0
    digests = {name: hashlib.sha256() for name in header.tensors}
    with storage_errors(base), base.open("rb") as file, ThreadPoolExecutor(max_workers=1) as hasher:
        yield file.read(header.data_start)
        unhashed: deque[Future[None]] = deque()
        updates = _ahead(lambda name: Update(terms(name), by_name[name]), header.tensors)
        jobs = (
            (name, raw, edit)
            for name, update in zip(header.tensors, updates, strict=True)
            for raw, edit in _blocks(file, base, header.tensors[name], by_name[name], update)
        )
        for name, block in ordered_map(_edited, jobs):
            # one thread, so in the order of the bytes; it leaves the interpreter's lock, as do products and writes
            unhashed.append(hasher.submit(digests[name].update, block))
            while len(unhashed) > _UNHASHED:
                unhashed.popleft().result()
            yield block
            done += len(block)
            progress("write weights", done, total)
        for hashed in unhashed:
            hashed.result()
    hashes |= {name: sha.hexdigest() for name, sha in digests.items()}


def copied_shard(path: Path, hashes: dict[str, str], progress: Progress) -> Iterator[bytes]:
    """The bytes of a cached shard; StaleShardError as soon as a tensor is not what `hashes` says."""
    try:
        header = read_header(path)
        total, done = sum(entry.size for entry in header.tensors.values()), 0
        with path.open("rb") as file:
            yield file.read(header.data_start)
            for name, entry in header.tensors.items():
                sha, left = hashlib.sha256(), entry.size
                while left and (chunk := file.read(min(left, _CHUNK))):
                    sha.update(chunk)
                    left -= len(chunk)
                    done += len(chunk)
                    yield chunk
                    progress("write weights", done, total)
                if sha.hexdigest() != hashes.get(name):
                    raise StaleShardError(f"{path}: {name}")
    except (OSError, IntegrityError, StorageError) as error:
        raise StaleShardError(str(error)) from error


_Job: TypeAlias = tuple[str, bytearray, "tuple[Edit, torch.dtype, int] | None"]


def _blocks(
    file: BinaryIO, path: Path, entry: Entry, weight: EditableWeight, update: Update
) -> Iterator[tuple[bytearray, tuple[Edit, torch.dtype, int] | None]]:
    """The base's bytes of each block of a tensor, and what is to be done to them; the file is at its first byte."""
    rows, columns = stored_shape(weight)
    dtype = STORAGE_DTYPES.get(entry.dtype)
    if dtype is None or entry.shape != (rows, columns):
        raise IntegrityError(
            f"{path}: {weight.name} is {entry.dtype} {list(entry.shape)}, the history says {[rows, columns]}",
            hint="The base is not the one that `init` recorded.",
        )
    for block, edit in update.blocks():
        raw = bytearray((block.stop - block.start) * columns * dtype.itemsize)
        if file.readinto(raw) != len(raw):  # type: ignore[attr-defined]
            raise StorageError(f"{path}: ends inside tensor {weight.name!r}", hint="It was cut short; delete it.")
        yield raw, None if update.is_zero else (edit, dtype, columns)


def _edited(job: _Job) -> tuple[str, memoryview]:
    name, raw, work = job
    if work is None:
        return name, memoryview(raw)
    edit, dtype, columns = work
    result = edit(torch.frombuffer(raw, dtype=dtype).reshape(-1, columns))
    return name, result.view(-1).view(torch.uint8).numpy().data


def _ahead(make: Callable[[str], Update], names: Iterable[str]) -> Iterator[Update]:
    """`make(name)` for each, the next one made while this one is in use."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: deque[Future[Update]] = deque()
        for name in names:
            waiting.append(pool.submit(make, name))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
