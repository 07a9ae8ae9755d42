"""Experts that share a tensor: in some checkpoints one tensor [E, …] holds all experts of a layer.

A patch changes whole tensors. So each expert's part is taken for a tensor of its own, NAME[3]: its bytes are together
in the file. Files are written with the whole tensors.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TypeAlias

from memit_vc.store.safetensors_file import DTYPE_BITS, Entry, FileHeader, file_order, write_header

Entries: TypeAlias = Mapping[str, tuple[str, tuple[int, ...]]]
"""Tensor or part -> (dtype in safetensors' spelling, shape)."""
_PART = re.compile(r"(.+)\[([0-9]+)\]")


def part_names(tensor: str, count: int) -> list[str]:
    """The names of a tensor's parts, in the order of their bytes and of the alphabet."""
    width = len(str(count - 1))
    return [f"{tensor}[{number:0{width}}]" for number in range(count)]


def part_of(name: str) -> tuple[str, int | None]:
    """The tensor that a part belongs to, and the part's number; another name with None."""
    found = _PART.fullmatch(name) if name.endswith("]") else None  # every command asks it of every tensor
    return (found[1], int(found[2])) if found else (name, None)


def in_parts(header: FileHeader, names: Collection[str]) -> FileHeader:
    """The header with the parts of each tensor [E, …] in place of the tensor, if `names` has all of its parts."""
    wanted = set(names)
    counts = Counter(whole for whole, number in map(part_of, wanted) if number is not None)
    tensors: dict[str, Entry] = {}
    for name, entry in header.tensors.items():
        # the count first: a header may claim any shape
        fits = len(entry.shape) > 1 and entry.shape[0] == counts[name] > 0 and DTYPE_BITS[entry.dtype] >= 8
        found = part_names(name, entry.shape[0]) if fits else []
        if not found or not wanted.issuperset(found):
            tensors[name] = entry
            continue
        size = entry.size // len(found)
        for number, part in enumerate(found):
            begin = entry.begin + number * size
            tensors[part] = Entry(entry.dtype, entry.shape[1:], begin, begin + size)
    return FileHeader(header.metadata, tensors, header.data_start)


def file_layout(entries: Entries, metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """The bytes before the data of a file with these tensors, parts being joined, and the order of the data.

    ValueError if a tensor is there beside parts of it, or lacks one.
    """
    parts: dict[str, list[str]] = {}
    for name in entries:
        parts.setdefault(part_of(name)[0], []).append(name)
    joined = {}
    for whole, found in parts.items():
        dtype, shape = entries[found[0]]
        if found != [whole] and sorted(found) != part_names(whole, len(found)):
            raise ValueError(f"{whole}: {len(found)} parts do not make a whole")
        joined[whole] = (dtype, shape if found == [whole] else (len(found), *shape))
    return write_header(joined, metadata), [name for whole in file_order(joined) for name in sorted(parts[whole])]
