"""Which Xet file belongs to which SHA-256, as the shards in a store's folder say (huggingface.co/docs/xet/shard)."""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["xet_files"]

_ENTRY = 48
_VERIFIED, _EXTENDED = 1 << 31, 1 << 30


def xet_files(cas: Path) -> dict[str, str]:
    """SHA-256 -> Xet hash of every file that hf_xet has put into the folder store at `cas`."""
    found: dict[str, str] = {}
    for shard in cas.rglob("shards/*.mdb"):
        found |= _files_of(shard.read_bytes())
    return found


def _files_of(shard: bytes) -> dict[str, str]:
    found, place = {}, _ENTRY
    while shard[place : place + 32] != b"\xff" * 32:
        file, flags, entries = struct.unpack_from("<32sII", shard, place)
        place += _ENTRY * (1 + entries * (2 if flags & _VERIFIED else 1))
        if flags & _EXTENDED:
            found[_text(shard[place : place + 32])] = _text(file)
            place += _ENTRY
    return found


def _text(digest: bytes) -> str:
    """Hashes are written as four little-endian numbers, the SHA-256 too."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))
