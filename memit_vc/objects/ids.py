"""Typed ids, canonical JSON, domain-separated hashing: one object, one canonical form, one id."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import NewType, TypeAlias, TypeGuard

BlobId = NewType("BlobId", str)
"""SHA-256 of a blob's bytes, 64 hex digits: `sha256sum` of the object file prints it."""
PatchId = NewType("PatchId", str)
"""The blob id of a patch: hash of its content, with no parent and no time in it."""
ColumnId = NewType("ColumnId", str)
"""One column (rank-one term over all edited weights) of a patch, or a whole dense patch; equal content, equal id."""
FactId = NewType("FactId", str)
CommitId = NewType("CommitId", str)
StateId = NewType("StateId", str)
"""A base and a set of live columns: equal states have equal weights, bit for bit."""
BaseId = NewType("BaseId", str)
"""Fingerprint of a base: hash of every tensor's name, dtype, shape and SHA-256; independent of sharding."""
StatisticsId = NewType("StatisticsId", str)

_SHA256 = re.compile(r"[0-9a-f]{64}")

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"


def canonical_json(value: JsonValue) -> bytes:
    """Sorted keys, no spaces, UTF-8, no NaN: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def finite(value: JsonValue) -> JsonValue:
    """The value with None for each float that is no number or infinite, which a damaged model gives and JSON lacks."""
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def digest(kind: str, payload: bytes) -> str:
    """SHA-256 of `payload` in the domain `kind`, so that two kinds of object never share an id."""
    return hashlib.sha256(f"memitvc {kind}\0".encode() + payload).hexdigest()


def is_sha256(value: object) -> TypeGuard[str]:
    """Whether this is a SHA-256 as every id is written: 64 lower-case hexadecimal digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def short(identifier: str) -> str:
    """The first ten digits, as shown to people."""
    return identifier[:10]
