"""The bytes of a state's hot shard, block by block in bounded memory, from bytes that are proved to be the base's."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from memit_vc.store.parts import in_parts
from memit_vc.store.safetensors_file import FileHeader, parse_header, read_header
from memit_vc.store.shards import hot_header

Digest: TypeAlias = "hashlib._Hash"
Buffer: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.uint8]]"
"""Memory that goes from block to block."""
_UNHASHED = 4
"""Blocks that may wait for their hash."""
_READ_AHEAD = 2
"""Blocks that are read and hashed while others are computed."""


class StaleShardError(Exception):
    """A cached shard does not hold the bytes that its record promises."""


class DamagedShardsError(IntegrityError):
    """Files of the split base are not the base's. `files` are their paths below its directory."""

    def __init__(self, directory: Path, files: Sequence[str]) -> None:
        self.directory, self.files = directory, tuple(files)
        super().__init__(
            f"{directory / self.files[0]}: does not hold the base's bytes",
            hint="Run `memitvc checkout` again: the shards are split again from the base checkpoint.",
        )


def _size(weights: Sequence[EditableWeight]) -> int:
    """Bytes of the data."""
    return sum(weight.d_out * weight.d_in * STORAGE_DTYPES[weight.dtype].itemsize for weight in weights)


def hot_shard(
    base: Path,
    weights: Sequence[EditableWeight],
    terms: Callable[[str], Iterable[Term]],
    promised: Mapping[str, str],
    hashes: dict[str, str],
    progress: Progress,
) -> Iterator[bytes | memoryview]:
    """The file for a state: the base's hot shard with the terms of each weight added.

    Blocks of all tensors go through one queue: while the caller writes one, others are read and hashed, computed, and
    hashed again, and the next tensor's terms are looked at. `terms(name)` may be iterated more than once, and on
    another thread. A block's memory is used again: it is valid until the next one is asked for.

    `promised` is the SHA-256 that each tensor has in the base: what is computed from other bytes would look right to
    every later check. DamagedShardsError if one has not, before the last block is given; otherwise errors as for
    `Update`. The SHA-256 of each tensor of the state is in `hashes` at the end.
    """
    by_name = {weight.name: weight for weight in weights}
    if by_name.keys() != promised.keys():
        raise IntegrityError(
            f"{base}: holds {len(promised)} tensors, the history knows {len(by_name)} editable weights",
            hint="Delete the directory; the next checkout builds it again from the base checkpoint.",
        )
    head = hot_header(weights)
    header = in_parts(parse_header(head, len(head) + _size(weights), source=str(base)), by_name)
    total, done = sum(entry.size for entry in header.tensors.values()), 0
    torch.get_num_threads()  # a thread that asks for the first time later would hear what a worker set for itself
    digests: dict[str, Digest] = {}
    """Of the tensors that are edited: the bytes of the others are the base's, which are hashed as they are read."""

    def check(name: str, sha256: str) -> None:
        if promised.get(name) != sha256:
            raise DamagedShardsError(base.parent, [base.name])

    with storage_errors(base), base.open("rb") as file, ThreadPoolExecutor(max_workers=1) as hasher:
        if file.read(len(head)) != head:
            raise DamagedShardsError(base.parent, [base.name])
        yield head
        unhashed: deque[tuple[Future[None] | None, Buffer]] = deque()
        spare: list[Buffer] = []
        # one ahead: the next one is made while this one is in use
        updates = ordered_map(lambda name: Update(terms(name), by_name[name]), header.tensors, workers=1)
        jobs = (
            block
            for name, update in zip(header.tensors, updates, strict=True)
            for block in _blocks(file, header, by_name[name], update, check)
        )
        # one thread, so in the order of the bytes
        read = ordered_map(partial(_read, spare), jobs, workers=1, ahead=_READ_AHEAD)
        for block, buffer, raw in block_map(_edited, read):
            # one thread here, too; it leaves the interpreter's lock, as do products and writes
            digest = None if block.edit is None else digests.setdefault(block.name, hashlib.sha256())
            unhashed.append((None if digest is None else hasher.submit(digest.update, raw), buffer))
            while len(unhashed) > _UNHASHED:
                hashed, done_with = unhashed.popleft()
                if hashed is not None:
                    hashed.result()
                spare.append(done_with)  # written, too: the caller has come back for others since
            yield raw
            done += len(raw)
            progress("write weights", done, total)
        for hashed, _ in unhashed:
            if hashed is not None:
                hashed.result()
    hashes |= {name: promised[name] for name in header.tensors}
    hashes |= {name: sha.hexdigest() for name, sha in digests.items()}


def copied_shard(path: Path, head: bytes, hashes: Mapping[str, str], progress: Progress) -> Iterator[bytes]:
    """The bytes of a cached shard; StaleShardError if it does not begin with `head`, and as soon as a tensor is not
    what `hashes` says.
    """
    try:
        header = in_parts(read_header(path), hashes)
        shard = Checkpoint(path.parent, {path.name: header})
        total, done = sum(entry.size for entry in header.tensors.values()), 0
        with path.open("rb") as file:
            if file.read(header.data_start) != head:
                raise StaleShardError(f"{path}: its header is another one")
        yield head
        for name in header.tensors:
            sha = hashlib.sha256()
            for chunk in shard.chunks(name):
                sha.update(chunk)
                done += len(chunk)
                yield chunk
                progress("write weights", done, total)
            if sha.hexdigest() != hashes.get(name):
                raise StaleShardError(f"{path}: {name} has other bytes than those that were written")
    except (OSError, IntegrityError, StorageError) as error:
        raise StaleShardError(str(error)) from error


@dataclass(frozen=True)
class _Block:
    """Some rows of a tensor in the base's shard, and their edit.

    `digest` takes the base's bytes; `check` is called with it at the tensor's last block.
    """

    name: str
    file: BinaryIO
    offset: int
    size: int
    columns: int
    dtype: torch.dtype
    edit: Edit | None
    digest: Digest
    check: Callable[[str, str], None] | None


def _blocks(
    file: BinaryIO, header: FileHeader, weight: EditableWeight, update: Update, check: Callable[[str, str], None]
) -> Iterator[_Block]:
    """The blocks of a tensor, in order."""
    entry, digest = header.tensors[weight.name], hashlib.sha256()
    columns, dtype = stored_shape(weight)[1], STORAGE_DTYPES[entry.dtype]
    offset, end = header.data_start + entry.begin, header.data_start + entry.end
    for block, edit in update.blocks():
        size = (block.stop - block.start) * columns * dtype.itemsize
        done = check if offset + size == end else None
        own = None if update.is_zero else edit
        yield _Block(weight.name, file, offset, size, columns, dtype, own, digest, done)
        offset += size


def _read(spare: list[Buffer], block: _Block) -> tuple[_Block, Buffer, memoryview]:
    """Read into a spare buffer, if there is one (fresh memory costs as much as the work), and hashed."""
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
            raise DamagedShardsError(Path(block.file.name).parent, [Path(block.file.name).name])
        done += count
    block.digest.update(raw)
    if block.check is not None:
        block.check(block.name, block.digest.hexdigest())
    return block, buffer, raw


def _edited(read: tuple[_Block, Buffer, memoryview]) -> tuple[_Block, Buffer, memoryview]:
    """Edited in place: on a thread of its own, so that the one that writes does nothing else."""
    block, _, raw = read
    if block.edit is not None:
        block.edit(torch.frombuffer(raw, dtype=block.dtype).reshape(-1, block.columns))
    return read
