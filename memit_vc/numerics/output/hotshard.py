"""The bytes of a state's hot shard, block by block in bounded memory."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import torch

from memit_vc.concurrency import ordered_map
from memit_vc.errors import IntegrityError, StorageError
from memit_vc.numerics.exact.blockwise import block_map
from memit_vc.numerics.exact.factored import Term
from memit_vc.numerics.exact.materialise import STORAGE_DTYPES, stored_shape
from memit_vc.numerics.exact.update import Edit, Update
from memit_vc.objects import EditableWeight
from memit_vc.progress import Progress
from memit_vc.store.checkpoint import Checkpoint
from memit_vc.store.files import storage_errors
from memit_vc.store.safetensors_file import FileHeader, read_header

Buffer: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.uint8]]"
"""Memory that goes from block to block."""
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
    A block's memory is used again: it is valid until the next one is asked for.
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
    torch.get_num_threads()  # a thread that asks for the first time later would hear what a worker set for itself
    digests = {name: hashlib.sha256() for name in header.tensors}
    with storage_errors(base), base.open("rb") as file, ThreadPoolExecutor(max_workers=1) as hasher:
        yield file.read(header.data_start)
        unhashed: deque[tuple[Future[None], Buffer]] = deque()
        spare: list[Buffer] = []
        # one ahead: the next one is made while this one is in use
        updates = ordered_map(lambda name: Update(terms(name), by_name[name]), header.tensors, workers=1)
        jobs = (
            block
            for name, update in zip(header.tensors, updates, strict=True)
            for block in _blocks(file, base, header, by_name[name], update)
        )
        for name, buffer, block in block_map(partial(_edited, spare), jobs):
            # one thread, so in the order of the bytes; it leaves the interpreter's lock, as do products and writes
            unhashed.append((hasher.submit(digests[name].update, block), buffer))
            while len(unhashed) > _UNHASHED:
                hashed, done_with = unhashed.popleft()
                hashed.result()
                spare.append(done_with)  # written, too: the caller has come back for others since
            yield block
            done += len(block)
            progress("write weights", done, total)
        for hashed, _ in unhashed:
            hashed.result()
    hashes |= {name: sha.hexdigest() for name, sha in digests.items()}


def copied_shard(path: Path, hashes: dict[str, str], progress: Progress) -> Iterator[bytes]:
    """The bytes of a cached shard; StaleShardError as soon as a tensor is not what `hashes` says."""
    try:
        header = read_header(path)
        shard = Checkpoint(path.parent, {path.name: header})
        total, done = sum(entry.size for entry in header.tensors.values()), 0
        with path.open("rb") as file:
            yield file.read(header.data_start)
        for name in header.tensors:
            sha = hashlib.sha256()
            for chunk in shard.chunks(name):
                sha.update(chunk)
                done += len(chunk)
                yield chunk
                progress("write weights", done, total)
            if sha.hexdigest() != hashes.get(name):
                raise StaleShardError(f"{path}: {name}")
    except (OSError, IntegrityError, StorageError) as error:
        raise StaleShardError(str(error)) from error


@dataclass(frozen=True)
class _Block:
    """Some rows of a tensor in the base's shard, and their edit."""

    name: str
    file: BinaryIO
    offset: int
    size: int
    columns: int
    dtype: torch.dtype
    edit: Edit | None


def _blocks(file: BinaryIO, path: Path, header: FileHeader, weight: EditableWeight, update: Update) -> Iterator[_Block]:
    """The blocks of a tensor, in order."""
    entry = header.tensors[weight.name]
    rows, columns = stored_shape(weight)
    dtype = STORAGE_DTYPES.get(entry.dtype)
    if dtype is None or entry.shape != (rows, columns):
        raise IntegrityError(
            f"{path}: {weight.name} is {entry.dtype} {list(entry.shape)}, the history says {[rows, columns]}",
            hint="Delete the directory; the next checkout builds it again from the base checkpoint.",
        )
    offset = header.data_start + entry.begin
    for block, edit in update.blocks():
        size = (block.stop - block.start) * columns * dtype.itemsize
        yield _Block(weight.name, file, offset, size, columns, dtype, None if update.is_zero else edit)
        offset += size


def _edited(spare: list[Buffer], block: _Block) -> tuple[str, Buffer, memoryview]:
    """Read and edited: on a thread of its own, so that the one that writes does nothing else.

    The buffer is a spare one, if there is one: fresh memory costs as much as the work.
    """
    try:
        buffer = spare.pop()
    except IndexError:
        buffer = np.empty(block.size, np.uint8)  # not zeroed, as a bytearray would be
    if len(buffer) < block.size:
        buffer = np.empty(block.size, np.uint8)
    raw = buffer.data[: block.size]
    done = 0
    while done < block.size:
        count = os.preadv(block.file.fileno(), [raw[done:]], block.offset + done)
        if not count:
            raise StorageError(
                f"{block.file.name}: ends inside tensor {block.name!r}", hint="Delete it: it was cut short."
            )
        done += count
    if block.edit is not None:
        block.edit(torch.frombuffer(raw, dtype=block.dtype).reshape(-1, block.columns))
    return block.name, buffer, raw
