"""Files of the engine's own caches: written so that a crash leaves the old file or the new one, never half.

One metadata key whose value is canonical JSON: with several keys safetensors' bytes are not reproducible.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memit_vc.errors import IntegrityError, StorageError
from memit_vc.objects.ids import JsonValue, canonical_json
from memit_vc.store.files import replacing

_METADATA_KEY = "memit_vc"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, JsonValue]) -> None:
    """Write `tensors` under `path`: temporary sibling, fsync, rename, fsync of the directory. StorageError."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = {_METADATA_KEY: canonical_json(metadata).decode()}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=described)
        except SafetensorError as error:
            hint = "Check free space and permissions."
            raise StorageError(f"{path}: cannot be written: {error}", hint=hint) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (CPU) and metadata of a file that `write_tensors` wrote.

    FileNotFoundError if there is none, IntegrityError for a file that is cut short or not ours, StorageError where
    the system refuses the read.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _metadata(path, file)  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone; raises as `read_tensors` does."""
    with _opened(path) as file:
        return _metadata(path, file)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise IntegrityError(f"{path}: not a whole safetensors file: {error}", hint="Delete it.") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error}", hint="Check its permissions.") from error


def _metadata(path: Path, file: Any) -> dict[str, Any]:
    try:
        found = json.loads((file.metadata() or {})[_METADATA_KEY])
    except (KeyError, ValueError) as error:
        raise IntegrityError(f"{path}: has no memit-vc metadata", hint="Delete it.") from error
    if not isinstance(found, dict):
        raise IntegrityError(f"{path}: its memit-vc metadata is not an object", hint="Delete it.")
    return found
