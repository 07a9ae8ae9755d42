"""The digests inside a file of the engine's caches, of its tensors and of its metadata, checked without torch.

The metadata has one key, whose value is canonical JSON: `about`, what the writer says; `tensors`, the SHA-256 of every
tensor's name, dtype, shape and bytes, by name; `digest`, that of the other two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memit_vc.errors import IntegrityError, MemitVCError
from memit_vc.objects import JsonValue, canonical_json
from memit_vc.store.checkpoint import Checkpoint
from memit_vc.store.safetensors_file import read_header
from memit_vc.store.sealed import seal, unseal

_METADATA_KEY = "memit_vc"
_KIND = "tensor file"


def tensors_digest(tensors: Iterable[tuple[str, str, Sequence[int], Iterable[Any]]]) -> str:
    """Of (name, safetensors dtype, shape, bytes in pieces), sorted by name."""
    sha = hashlib.sha256()
    for name, dtype, shape, chunks in tensors:
        sha.update(canonical_json([name, dtype, list(shape)]))
        for chunk in chunks:
            sha.update(chunk)
    return sha.hexdigest()


def described(about: Mapping[str, JsonValue], tensors: str) -> dict[str, str]:
    """The metadata of a file whose tensors have this digest."""
    return {_METADATA_KEY: canonical_json(seal(_KIND, {"about": dict(about), "tensors": tensors})).decode()}


def understood(path: Path, metadata: Mapping[str, str] | None) -> tuple[dict[str, Any], str]:
    """What `described` was given. IntegrityError for metadata that are damaged, or not ours."""
    try:
        record = unseal(_KIND, json.loads((metadata or {})[_METADATA_KEY]))
        return dict(record["about"]), str(record["tensors"])
    except KeyError as error:
        raise IntegrityError(f"{path}: has no memit-vc metadata", hint="Delete it.") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{path}: its metadata cannot be believed: {error}", hint="Delete it.") from error


def damage(path: Path) -> str | None:
    """What is wrong with a file; None if it is whole, or gone."""
    if not path.exists():
        return None
    try:
        header = read_header(path)
        _, promised = understood(path, header.metadata)
        file = Checkpoint(path.parent, {path.name: header})
        entries = sorted(header.tensors.items())
        found = tensors_digest((name, e.dtype, e.shape, file.chunks(name)) for name, e in entries)
    except MemitVCError as error:
        return error.message.removeprefix(f"{path}: ")
    return None if found == promised else "its tensors do not have the digest that they were written with"
