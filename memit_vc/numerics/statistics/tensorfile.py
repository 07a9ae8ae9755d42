"""Files of the engine's own caches: written so that a crash leaves the old file or the new one, never half.

One metadata key whose value is canonical JSON: with several keys safetensors' bytes are not reproducible.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memit_vc.errors import IntegrityError, StorageError
from memit_vc.objects.ids import JsonValue, canonical_json
from memit_vc.store.files import fsync, fsync_directory, temporary_path

__all__ = ["read_metadata", "read_tensors", "write_bytes", "write_tensors"]

_METADATA_KEY = "memit_vc"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, JsonValue]) -> None:
    """Write `tensors` under `path`: temporary sibling, fsync, rename, fsync of the directory. StorageError."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = {_METADATA_KEY: canonical_json(metadata).decode()}
    _replace(path, lambda temporary: save_file(contiguous, temporary, metadata=described))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file in the same way."""
    _replace(path, lambda temporary: temporary.write_bytes(content))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path)
        write(temporary)
        _sync(temporary, os.O_RDWR)
        temporary.replace(path)
        temporary = None
        fsync_directory(path.parent)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path}: cannot be written: {error}", hint="Check free space and permissions.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (CPU) and metadata of a file that `write_tensors` wrote.

    FileNotFoundError is left to the caller, who knows whether the file had to be there. IntegrityError for a file that
    is cut short or not ours, StorageError where the system refuses the read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, _metadata(path, file)  # noqa: SIM118
    except SafetensorError as error:
        raise IntegrityError(f"{path}: not a whole safetensors file: {error}", hint="Delete it.") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error}", hint="Check its permissions.") from error


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone; raises as `read_tensors` does."""
    try:
        with safe_open(path, framework="pt") as file:
            return _metadata(path, file)
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


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        fsync(handle)
    finally:
        os.close(handle)
