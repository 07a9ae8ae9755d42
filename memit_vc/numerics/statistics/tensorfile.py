"""Files of the engine's own caches: written so that a crash leaves the old file or the new one, never half.

Each carries digests of its tensors and of its metadata, and is read only if they fit: one flipped bit in a factor gives
another patch, and nothing later would notice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memit_vc.errors import IntegrityError, MemitVCError, StorageError
from memit_vc.objects.ids import JsonValue
from memit_vc.store.files import replacing
from memit_vc.store.tensor_digest import described, tensors_digest, understood

_LOG = logging.getLogger(__name__)
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the caches hold, in safetensors' words."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, JsonValue]) -> None:
    """Write `tensors` under `path`: temporary sibling, fsync, rename, fsync of the directory. StorageError."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = described(metadata, _content(contiguous))
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=about)
        except SafetensorError as error:
            hint = "Check free space and permissions."
            raise StorageError(f"{path}: cannot be written: {error}", hint=hint) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (CPU) and metadata of a file that `write_tensors` wrote, both checked against their digests.

    FileNotFoundError if there is none, IntegrityError for a file that is damaged, cut short or not ours, StorageError
    where the system refuses the read.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about, promised = understood(path, file.metadata())
    if promised != _content(tensors):
        raise IntegrityError(
            f"{path}: its tensors do not have the digest that they were written with", hint="Delete it."
        )
    return tensors, about


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone, checked against its own digest; raises as `read_tensors` does."""
    with _opened(path) as file:
        return understood(path, file.metadata())[0]


def count_as_absent(error: MemitVCError) -> None:
    """Say that a file of a cache is damaged. What takes its place is what would be there without the damage."""
    _LOG.warning("%s; it counts as absent and is computed again", error.message)


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


def _content(tensors: Mapping[str, Tensor]) -> str:
    return tensors_digest(
        (name, _DTYPES[tensor.dtype], tensor.shape, [tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data])
        for name, tensor in sorted(tensors.items())
    )
