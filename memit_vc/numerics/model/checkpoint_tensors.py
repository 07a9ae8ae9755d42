"""Single tensors of a checkpoint, without loading the model."""

from __future__ import annotations

import hashlib

from safetensors import safe_open
from torch import Tensor

from memit_vc.store.checkpoint import Checkpoint
from memit_vc.store.files import storage_errors
from memit_vc.store.parts import part_of


def read_tensor(checkpoint: Checkpoint, name: str) -> Tensor:
    """One tensor as stored: shape, dtype and orientation of the file. StorageError; BaseChangedError for other bytes
    than those that the checkpoint promises.
    """
    path = checkpoint.directory / checkpoint.tensors[name][0]
    with storage_errors(path), safe_open(path, framework="pt") as file:
        whole, number = part_of(name)
        found: Tensor = file.get_tensor(name) if number is None else file.get_slice(whole)[number]
    if name in checkpoint.promised:
        checkpoint.check(name, tensor_digest(found))
    return found


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes in row-major order, as a checkpoint stores them."""
    import torch

    return hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()
