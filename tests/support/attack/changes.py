"""Bytes and JSON values with something in them changed."""

from __future__ import annotations

import json
import random
from typing import Any

__all__ = ["altered", "as_canonical", "spoilt"]

ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1 << 60, 1 << 70, 0.5, 1e308, "", "x", "\0", "\ud800", "../../x", "ab" * 32, "AB" * 32),
    *([], {}, [None], {"x": 1}, ["ab" * 32] * 2, "é" * 300, "x" * 70_000),
)


def spoilt(data: bytes, chance: random.Random) -> bytes:
    """Bytes flipped, cut, doubled, put in, exchanged or thrown away."""
    at, size = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 8, 64, 1000))
    part = data[at : at + size]
    return chance.choice(
        (
            data[:at] + bytes(b ^ (1 << chance.randrange(8)) for b in part) + data[at + size :],
            data[:at] + data[at + size :],
            data[:at] + part + part + data[at + size :],
            data[:at] + chance.randbytes(size) + data[at:],
            data[:at] + chance.randbytes(len(part)) + data[at + size :],
            data[:at],
            data[:at] + bytes(size) + data[at + size :],
        )
    )


def altered(value: Any, chance: random.Random) -> Any:
    """A JSON value with one place in it changed: replaced, left out, doubled, or put elsewhere."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value))
        rest = {k: v for k, v in value.items() if k != key}
        how = chance.randrange(8)
        if how == 0:
            return rest
        if how == 1:
            return {**rest, chance.choice(("", "more", "../x", "ab" * 32, key[:-1])): value[key]}
        return {**rest, key: altered(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        how = chance.randrange(6)
        if how == 0:
            return value[:at] + value[at + 1 :]
        if how == 1:
            return [*value, value[at]]
        if how == 2:
            return value[::-1]
        return [*value[:at], altered(value[at], chance), *value[at + 1 :]]
    if isinstance(value, str) and value and chance.random() < 0.4:
        return spoilt(value.encode("utf-8", "surrogatepass"), chance).decode("utf-8", "replace")
    if isinstance(value, int | float) and not isinstance(value, bool) and chance.random() < 0.4:
        return value + chance.choice((1, -1, 0.5, 1 << 40))
    return chance.choice(ODD)


def as_canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")
