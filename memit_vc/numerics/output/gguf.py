"""A state in GGUF: the edited tensors take the place of the base's, every other one is copied as it is. The header gets
one more value, which names the state.

An edited tensor is the sum float64(W) + D of the checkpoint, rounded to float32 and then to its type in the file. What
the base's file made of W does not matter: a file in 4 bits gets the whole edit.

One tensor holds all experts of a layer, expert after expert. If some are edited and the type stays, the others are
copied. If the tensor gets another type, the others are made of the checkpoint, too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from memit_vc.errors import EngineError, IntegrityError, UnsupportedModelError, UsageError
from memit_vc.foreign.files import opened
from memit_vc.numerics.exact.factored import Term
from memit_vc.numerics.exact.materialise import STORAGE_DTYPES, Materialiser, convert, state_weight
from memit_vc.numerics.model.checkpoint_tensors import read_tensor
from memit_vc.objects import EditableWeight, StateId
from memit_vc.progress import Progress, silent
from memit_vc.store.checkpoint import Checkpoint
from memit_vc.store.files import storage_errors
from memit_vc.store.gguf_file import GGUFHeader, GGUFTensor
from memit_vc.store.parts import part_of

KINDS: Mapping[str, int] = {"F32": 0, "F16": 1, "Q8_0": 8, "BF16": 30}
"""Types of edited tensors, by ggml's numbers. They hold an edit; fewer bits would round it away."""
_NAMES = {number: name for name, number in KINDS.items()}
_TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_Q8_BLOCK, _Q8_BYTES = 32, 34
_CHUNK = 1 << 22
_ENTRIES = 1 << 20
"""Entries of an edited tensor that are made at once."""
_ROWS_COMPARED = 4
_TURNED = {"attn_q.weight": "head_count", "attn_k.weight": "head_count_kv"}
"""What llama.cpp stores with the two halves of each rotation side by side in Llama's family -> the number of heads."""
_STATE = "memitvc.state"
"""A value of each file that is written here. llama.cpp keeps it when it makes another type of the file."""
_FUSED, _REORDERED = "attn_qkv.weight", ("gptneox", "bloom", "falcon")
"""The tensor whose rows llama.cpp stores in an order of its own, and the families: there only an export that changes it
looks at it.
"""
_ROUNDING, _LEAST = 2.0**-7, 2.0**-24
"""What an entry may be off by, as a share of it, and besides. A rounding to bfloat16, through which a checkpoint in F32
may have come to every type, is 2^-8, and may follow another one; the smallest numbers of F16 are 2^-24 apart. An edit
moves the many small entries of a row by more.
"""
_LARGEST_F16 = 65504.0
_Q8_ROUNDING = 0.6 / 127
"""As a share of the largest entry of its block, which is 127 steps: half a step, and what the rounding of the step to
F16 makes of 127 steps, 127 · 2^-11.
"""
_QUANTISED = 0.7
"""‖stored − W‖ / ‖W‖ at most, of the other types: some are made with weights that only their maker knows, so that no
entry has a bound. Another model's weights have about 1.4.
"""


@dataclass(frozen=True)
class Replaced:
    """A weight, its tensor in the file, and the type that this one gets."""

    weight: EditableWeight
    tensor: GGUFTensor
    kind: str
    heads: int | None = None
    """Of a tensor whose rows are in the order of `_order`."""
    copied: bool = False
    """An expert that is as it was, in a tensor of other experts that are not."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.weight.d_out * self.row_size

    @property
    def row_size(self) -> int:
        if self.kind == "Q8_0":
            return self.weight.d_in // _Q8_BLOCK * _Q8_BYTES
        return self.weight.d_in * _TORCH[self.kind].itemsize


def replacements(
    header: GGUFHeader,
    checkpoint: Checkpoint,
    weights: Sequence[EditableWeight],
    edited: Iterable[str],
    kind: str | None,
) -> list[Replaced]:
    """What takes the place of which tensor; `kind` None leaves a type of `KINDS` as it is, and gives others the type of
    the checkpoint (F16 for F32, which does not fit a file that was made small).

    UnsupportedModelError for a family that llama.cpp does not know, or whose weights it stores in another order;
    IntegrityError if the file was not made from this base: if it says that it holds a state, or by some rows of each of
    `weights`.
    """
    if _STATE in header.values:
        raise IntegrityError(
            f"{header.path}: holds the edited state {str(header.values[_STATE])[:10]!r}, not the base",
            hint=f"Give a GGUF of the base itself. {CONVERT}",
        )
    names = _names(header, weights)
    missing = [name for name in edited if names.get(name) not in header.tensors]
    if missing:
        raise UnsupportedModelError(
            f"{header.path}: holds no tensor for {missing[0]} (looked for {names.get(missing[0]) or 'a name'!r})",
            hint=f"Give a GGUF of the whole base. {CONVERT}",
        )
    wanted, reordered = set(edited), header.values.get("general.architecture") in _REORDERED
    pairs = [
        (weight, header.tensors[name])
        for weight in weights
        if (name := names.get(weight.name, "")) in header.tensors
        and (weight.name in wanted or not (reordered and name.endswith(_FUSED)))
    ]
    with storage_errors(header.path):
        heads = _check_base(header, checkpoint, pairs, wanted)
    changed = {names[name] for name in wanted}
    found = [
        Replaced(
            weight,
            tensor,
            new := kind or _own_kind(weight, tensor),
            heads.get(weight.name),
            weight.name not in wanted and KINDS[new] == tensor.kind,
        )
        for weight, tensor in pairs
        if tensor.name in changed
    ]
    for each in found:
        if each.kind == "Q8_0" and each.weight.d_in % _Q8_BLOCK:
            raise UsageError(
                f"{each.weight.name} has rows of {each.weight.d_in} entries, and Q8_0 takes {_Q8_BLOCK} at a time",
                hint="Choose --type F16 or BF16.",
            )
    return found


CONVERT = (
    "llama.cpp's convert_hf_to_gguf.py makes one of a model directory, and so of a checkout: "
    "`memitvc checkout REV -o DIR`."
)


def write_gguf(
    header: GGUFHeader,
    checkpoint: Checkpoint,
    replaced: Sequence[Replaced],
    terms: Callable[[str], list[Term]],
    *,
    state: StateId,
    progress: Progress = silent,
) -> Iterator[bytes]:
    """The bytes of the file, a few megabytes at a time; it names the state.

    BaseChangedError for a checkpoint with other bytes than it promises, EngineError for a value that its type cannot
    hold, StorageError for a file that has become shorter.
    """
    by_tensor: dict[str, list[Replaced]] = {}
    for each in sorted(replaced, key=lambda each: each.weight.expert or 0):
        by_tensor.setdefault(each.tensor.name, []).append(each)
    sizes = {name: sum(each.size for each in parts) for name, parts in by_tensor.items()}
    kinds = {name: KINDS[parts[0].kind] for name, parts in by_tensor.items()}
    yield header.with_tensors(kinds, sizes, (_STATE, state))
    total, done = sum(sizes.get(name, t.end - t.begin) for name, t in header.tensors.items()), 0
    with storage_errors(header.path), opened(header.path) as file:
        for name, tensor in header.tensors.items():
            if name in sizes:
                made = (
                    _copied(file, header, tensor.begin + (each.weight.expert or 0) * each.size, each.size)
                    if each.copied
                    else _edited(checkpoint, each, terms(each.weight.name))
                    for each in by_tensor[name]
                )
                padding = bytes(header.aligned(sizes[name]) - sizes[name])
                chunks: Iterator[bytes] = chain(chain.from_iterable(made), [padding] if padding else [])
            else:
                chunks = _copied(file, header, tensor.begin, tensor.end - tensor.begin)
            for chunk in chunks:
                yield chunk
                done += len(chunk)
                progress("write weights", min(done, total), total)


def _copied(file: Any, header: GGUFHeader, begin: int, left: int) -> Iterator[bytes]:
    """`left` bytes of the data, from `begin` on."""
    file.seek(header.data_start + begin)
    while left:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise IntegrityError(f"{header.path}: became shorter while it was read", hint="Try again.")
        left -= len(chunk)
        yield chunk


def _edited(checkpoint: Checkpoint, each: Replaced, terms: Sequence[Term]) -> Iterator[bytes]:
    """The rows of an edited tensor, [d_out, d_in] in the end, whatever the checkpoint's orientation."""
    weight = each.weight
    dtype = STORAGE_DTYPES[checkpoint.tensors[weight.name][1].dtype]
    # a storage dtype's values are values of the working one, so there is one rounding to it
    working = torch.float64 if dtype == torch.float64 else torch.float32
    step = max(1, _ENTRIES // weight.d_in)
    if weight.orientation == "in_out" or each.heads is not None:
        whole = state_weight(read_tensor(checkpoint, weight.name), terms, weight, working)
        whole = whole.T if weight.orientation == "in_out" else whole
        whole = whole if each.heads is None else whole[_order(weight.d_out, each.heads)]
        yield from (_typed(whole[start : start + step], each) for start in range(0, weight.d_out, step))
        return
    update, start = Materialiser(terms, weight), 0
    for raw in _in_rows(checkpoint.chunks(weight.name), weight.d_in * dtype.itemsize, step):
        rows = torch.frombuffer(raw, dtype=dtype).reshape(-1, weight.d_in).to(working)
        yield _typed(update.apply(rows, start, in_place=working != dtype), each)
        start += rows.shape[0]


def _in_rows(chunks: Iterable[bytes], row: int, step: int) -> Iterator[bytearray]:
    """The same bytes in pieces of whole rows, `step` at most. What ends within a row is left out."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= row * step:
            piece, held = held[: row * step], held[row * step :]
            yield piece
    if len(held) >= row:
        yield held[: len(held) // row * row]


def _typed(rows: Tensor, each: Replaced) -> bytes:
    single = rows.float().contiguous()
    if each.kind == "Q8_0":
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import quantize

        made: bytes = quantize(single.numpy(), GGMLQuantizationType.Q8_0).tobytes()
        return made
    try:
        made_of = convert(single, _TORCH[each.kind], each.weight.name)
    except EngineError as error:
        raise EngineError(error.message, hint="Choose --type BF16.") from error
    return made_of.view(torch.uint8).numpy().tobytes()


def _own_kind(weight: EditableWeight, tensor: GGUFTensor) -> str:
    return _NAMES.get(tensor.kind) or ("BF16" if weight.dtype == "BF16" else "F16")


def _names(header: GGUFHeader, weights: Sequence[EditableWeight]) -> dict[str, str]:
    """Weight → its tensor in a file of this family, where llama.cpp has a name for it."""
    from gguf.constants import MODEL_ARCH_NAMES
    from gguf.tensor_mapping import get_tensor_name_map

    family = header.values.get("general.architecture")
    known = next((number for number, name in MODEL_ARCH_NAMES.items() if name == family), None)
    if known is None:
        raise UnsupportedModelError(
            f"{header.path}: is of the family {family!r}, which the installed package gguf does not know",
            hint="Upgrade the package gguf.",
        )
    mapping = get_tensor_name_map(known, 1 + max((weight.layer for weight in weights), default=0))
    found = {weight.name: mapping.get_name(weight.parameter, try_suffixes=(".weight",)) for weight in weights}
    # the parameter of all experts has no such ending in the model, its tensor has it
    return {name: f"{tensor.removesuffix('.weight')}.weight" for name, tensor in found.items() if tensor}


def _check_base(
    header: GGUFHeader,
    checkpoint: Checkpoint,
    pairs: Sequence[tuple[EditableWeight, GGUFTensor]],
    edited: Collection[str],
) -> dict[str, int]:
    """IntegrityError unless each tensor has the shape of its weight, and rows that are that weight's, rounded. The
    weights whose rows are in the order of `_order` there, with the number of heads.
    """
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    turned: dict[str, int] = {}
    experts = Counter(tensor.name for weight, tensor in pairs if weight.expert is not None)
    with opened(header.path) as file:
        for weight, tensor in pairs:
            heads = _heads(header, weight, tensor)
            shape = (weight.d_in, weight.d_out)
            first = tensor.begin
            if tensor.shape != (shape if weight.expert is None else (*shape, experts[tensor.name])):
                raise IntegrityError(
                    f"{header.path}: {tensor.name} is {list(tensor.shape)}, {weight.name} of the base has "
                    f"{weight.d_in} inputs and {weight.d_out} outputs",
                    hint="Give a GGUF of this repository's base.",
                )
            try:
                block, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
                row = weight.d_in // block * size
                first += (weight.expert or 0) * weight.d_out * row
                if weight.d_in % block or first + row * weight.d_out > tensor.end:
                    raise IntegrityError(
                        f"{header.path}: {tensor.name} is cut short, or of a type that its rows do not fit",
                        hint="Fetch it again.",
                    )
                candidates = [n for n, row_ in enumerate(_order(weight.d_out, heads)) if n != row_] if heads else []
                candidates = candidates or list(range(weight.d_out))
                numbers = [
                    candidates[round(n * (len(candidates) - 1) / (_ROWS_COMPARED - 1))] for n in range(_ROWS_COMPARED)
                ]
                raw = b"".join(os.pread(file.fileno(), row, header.data_start + first + n * row) for n in numbers)
                stored = dequantize(
                    np.frombuffer(raw, np.uint8).reshape(len(numbers), -1), GGMLQuantizationType(tensor.kind)
                )
            except (ValueError, KeyError, NotImplementedError) as error:
                if heads is None or weight.name not in edited:
                    continue  # a type that is newer than the package: the shape must do
                raise UnsupportedModelError(
                    f"{header.path}: {tensor.name} is of a type that the installed package gguf cannot read",
                    hint="Upgrade the package gguf, or give the base in F16.",
                ) from error
            off = _apart(stored, _rows(checkpoint, weight, numbers), tensor.kind)
            if not off <= 1 and heads is not None:
                order = _order(weight.d_out, heads)
                if _apart(stored, _rows(checkpoint, weight, [order[n] for n in numbers]), tensor.kind) <= 1:
                    turned[weight.name] = heads
                    continue
            if not off <= 1:
                raise IntegrityError(
                    f"{header.path}: {tensor.name} does not hold the base's {weight.name} "
                    f"({len(numbers)} rows are off by {off:.3g} times what the type may round)",
                    hint=f"Give a GGUF of this repository's base, or convert a checkout. {CONVERT}",
                )
    return turned


def _heads(header: GGUFHeader, weight: EditableWeight, tensor: GGUFTensor) -> int | None:
    """The number of heads of a tensor that llama.cpp may store in the order of `_order`."""
    key = next((key for end, key in _TURNED.items() if tensor.name.endswith(end)), None)
    family = header.values.get("general.architecture")
    found = [header.values.get(f"{family}.attention.{name}") for name in (key, "head_count")]
    heads = next((value for value in found if isinstance(value, int) and value > 0), None)
    return None if key is None or heads is None or weight.d_out % (2 * heads) else heads


def _order(d_out: int, heads: int) -> list[int]:
    """The checkpoint's row for each row of a tensor whose rotations have their two halves side by side."""
    half = d_out // heads // 2
    return [(head * 2 + side) * half + row for head in range(heads) for row in range(half) for side in range(2)]


def _apart(stored: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], kind: int) -> float:
    """How far the rows of a tensor are from those of its weight, against what its type may round: 1 at most."""
    name, stored = _NAMES.get(kind), stored.astype(np.float64)
    if name is None:
        return float(np.linalg.norm(stored - expected) / (_QUANTISED * np.linalg.norm(expected) or 1.0))
    if name == "F16":
        stored, expected = (np.clip(each, -_LARGEST_F16, _LARGEST_F16) for each in (stored, expected))
    most = _ROUNDING * np.abs(expected) + _LEAST
    if name == "Q8_0":
        blocks = np.abs(expected).reshape(len(expected), -1, _Q8_BLOCK).max(axis=2)
        most += np.repeat(_Q8_ROUNDING * blocks + 127 * _LEAST, _Q8_BLOCK, axis=1)
    return float((np.abs(stored - expected) / most).max())


def _rows(checkpoint: Checkpoint, weight: EditableWeight, numbers: Sequence[int]) -> np.ndarray[Any, Any]:
    """Rows of W [d_out, d_in], float64."""
    path = checkpoint.directory / checkpoint.tensors[weight.name][0]
    with storage_errors(path), safe_open(path, framework="pt") as file:
        whole, expert = part_of(weight.name)
        part = file.get_slice(whole) if expert is None else file.get_slice(whole)[expert]
        if weight.orientation == "out_in":
            found = torch.stack([part[n : n + 1][0] for n in numbers])
        else:
            found = torch.stack([part[:, n : n + 1][:, 0] for n in numbers])
    return found.double().numpy()
