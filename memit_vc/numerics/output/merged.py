"""A state as a plain checkpoint, in any dtype and shard size, tensor by tensor: the model is never in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from torch import Tensor

from memit_vc.errors import UnsupportedModelError, UsageError
from memit_vc.numerics.exact.factored import Term
from memit_vc.numerics.exact.materialise import STORAGE_DTYPES, convert, state_weight
from memit_vc.numerics.model.checkpoint_tensors import read_tensor
from memit_vc.objects import EditableWeight
from memit_vc.progress import Progress, silent
from memit_vc.store.checkpoint import INDEX_FILE, Checkpoint
from memit_vc.store.files import write_atomic
from memit_vc.store.parts import file_layout, part_of
from memit_vc.store.safetensors_file import DTYPE_BITS

_PIECE = 1 << 22
"""Entries that are converted at once."""


def write_merged(
    checkpoint: Checkpoint,
    weights: Sequence[EditableWeight],
    terms: Callable[[str], list[Term]],
    directory: Path,
    *,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
    progress: Progress = silent,
) -> list[str]:
    """Write the weight files (and the index, where there are several) into `directory`; their names.

    `dtype` is one of safetensors' F32, BF16 and F16 for every float tensor, None for each one's own. `max_shard_size`
    is a number with MB or GB. UsageError for a size that cannot be understood, UnsupportedModelError for a quantised
    tensor that a dtype is asked for; others as for `state_weight` and `Checkpoint.chunks`.
    """
    edited = {weight.name: weight for weight in weights}
    target: dict[str, str] = {}
    for name, (_, entry) in checkpoint.tensors.items():
        if dtype is not None and entry.dtype.startswith("F") and entry.dtype not in STORAGE_DTYPES:
            raise UnsupportedModelError(
                f"{checkpoint.directory}: {name} is stored as {entry.dtype}, which is not a plain number format",
                hint="Leave --dtype out.",
            )
        target[name] = dtype if dtype is not None and entry.dtype in STORAGE_DTYPES else entry.dtype
    sizes: dict[str, int] = {}
    parts: dict[str, list[str]] = {}
    for name, (_, entry) in checkpoint.tensors.items():
        whole, _ = part_of(name)
        parts.setdefault(whole, []).append(name)
        sizes[whole] = sizes.get(whole, 0) + entry.size * DTYPE_BITS[target[name]] // DTYPE_BITS[entry.dtype]
    try:
        split = split_state_dict_into_shards_factory(
            sizes,
            get_storage_size=lambda size: size,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max_shard_size,
        )
    except ValueError as error:
        raise UsageError(f"--max-shard-size {max_shard_size}: {error}", hint="Write, for instance, 5GB.") from error
    total, done = sum(sizes.values()), 0

    def counted(chunks: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal done
        for chunk in chunks:
            done += len(chunk)
            yield chunk
            progress("write weights", done, total)

    def content(names: Sequence[str]) -> Iterator[bytes]:
        entries = {part: (target[part], checkpoint.tensors[part][1].shape) for name in names for part in parts[name]}
        head, order = file_layout(entries, {"format": "pt"})
        yield head
        for name in order:
            found = terms(name) if name in edited else []
            if found:
                base = read_tensor(checkpoint, name)
                yield from _raw(state_weight(base, found, edited[name], STORAGE_DTYPES[target[name]]))
            elif target[name] == checkpoint.tensors[name][1].dtype:
                yield from checkpoint.chunks(name)
            else:
                yield from _converted(read_tensor(checkpoint, name), STORAGE_DTYPES[target[name]], name)

    for file, names in split.filename_to_tensors.items():
        write_atomic(directory / file, counted(content(names)))
    files = sorted(split.filename_to_tensors)
    if split.is_sharded:
        index: Mapping[str, object] = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_atomic(directory / INDEX_FILE, json.dumps(index, indent=2, sort_keys=True).encode() + b"\n")
        files.append(INDEX_FILE)
    return files


def _converted(tensor: Tensor, dtype: torch.dtype, name: str) -> Iterator[bytes]:
    flat = tensor.reshape(-1)
    for start in range(0, flat.numel(), _PIECE):
        yield from _raw(convert(flat[start : start + _PIECE], dtype, name))


def _raw(tensor: Tensor) -> Iterator[bytes]:
    flat = tensor.contiguous().view(-1)
    for start in range(0, flat.numel(), _PIECE):
        yield flat[start : start + _PIECE].view(torch.uint8).numpy().tobytes()
