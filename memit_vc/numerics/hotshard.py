"""The bytes of a state's hot shard, block by block in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import torch

from memit_vc.errors import IntegrityError, StorageError
from memit_vc.numerics.blockwise import ordered_map
from memit_vc.numerics.materialise import STORAGE_DTYPES, Materialiser, Term
from memit_vc.objects import EditableWeight
from memit_vc.progress import Progress
from memit_vc.store.files import storage_errors
from memit_vc.store.safetensors_file import Entry, read_header

__all__ = ["StaleShardError", "copied_shard", "hot_shard"]

_CHUNK = 1 << 23


class StaleShardError(Exception):
    """A cached shard does not hold the bytes that its record promises."""


def hot_shard(
    base: Path,
    weights: Sequence[EditableWeight],
    terms: Callable[[str], list[Term]],
    hashes: dict[str, str],
    progress: Progress,
) -> Iterator[bytes]:
    """The file for a state: the base's hot shard, header and all, with the terms of each weight added.

    SHA-256 of each tensor goes into `hashes` as it is finished. Errors as for `Materialiser`.
    """
    header = read_header(base)
    by_name = {weight.name: weight for weight in weights}
    if by_name.keys() != header.tensors.keys():
        raise IntegrityError(
            f"{base}: holds {len(header.tensors)} tensors, the history knows {len(by_name)} editable weights",
            hint="Delete the directory; the next checkout builds it again from the base checkpoint.",
        )
    total, done = sum(entry.size for entry in header.tensors.values()), 0
    with storage_errors(base), base.open("rb") as file, ThreadPoolExecutor(max_workers=1) as hasher:
        yield file.read(header.data_start)
        for name, entry in header.tensors.items():
            sha = hashlib.sha256()
            pending: Future[None] | None = None
            for block in _tensor(file, base, entry, by_name[name], terms(name)):
                if pending is not None:
                    pending.result()
                # hashing one block while the next is computed and this one written; both leave the interpreter's lock
                pending = hasher.submit(sha.update, block)
                yield block
                done += len(block)
                progress("write weights", done, total)
            if pending is not None:
                pending.result()
            hashes[name] = sha.hexdigest()


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


def _tensor(file: BinaryIO, path: Path, entry: Entry, weight: EditableWeight, terms: list[Term]) -> Iterator[bytes]:
    """The bytes of one materialised tensor; the file is at its first byte."""
    update = Materialiser(terms, weight)
    rows, columns = update.stored_shape
    dtype = STORAGE_DTYPES.get(entry.dtype)
    if dtype is None or entry.shape != (rows, columns):
        raise IntegrityError(
            f"{path}: {weight.name} is {entry.dtype} {list(entry.shape)}, the history says {[rows, columns]}",
            hint="The base is not the one that `init` recorded.",
        )

    def read(block: slice) -> tuple[slice, bytes]:
        size = (block.stop - block.start) * columns * dtype.itemsize
        raw = file.read(size)
        if len(raw) != size:
            raise StorageError(f"{path}: ends inside tensor {weight.name!r}", hint="It was cut short; delete it.")
        return block, raw

    def edit(item: tuple[slice, bytes]) -> bytes:
        block, raw = item
        # torch wants a writable buffer; copying a block costs nothing beside the product
        base = torch.frombuffer(bytearray(raw), dtype=dtype).reshape(-1, columns)
        return update.apply(base, block.start).contiguous().view(torch.uint8).numpy().tobytes()

    blocks = map(read, update.blocks())
    if update.is_zero:
        yield from (raw for _, raw in blocks)
    else:
        yield from ordered_map(edit, blocks)
