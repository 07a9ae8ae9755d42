"""Memory: how much is free, what a token of the search costs, and what happens if it runs out.

Forwards that run out are tried again with half as many tokens, on any device. The second try begins when the `except`
block of the first has ended: until then the error's traceback holds every tensor of the forward that failed, and the
memory that was to be got back is still taken.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from memit_vc.errors import EngineError
from memit_vc.foreign.ram import free_ram
from memit_vc.numerics.model.adapter import ModelAdapter

_T = TypeVar("_T")
_MOST = {"cpu": 384, "cuda": 16384}
"""Larger forwards gain nothing: a CPU's cores are busy, and its caches overflow, with far fewer tokens than a GPU's."""
_LEAST = 48
_LEAST_HALVED = 16
_SAID = ("DefaultCPUAllocator", "out of memory", "not enough memory", "can't allocate memory")
"""In the messages of torch's CPU allocator, a plain RuntimeError, and of GPUs that have no error class of their own."""


def search_tokens(adapter: ModelAdapter, *, layer: int) -> int:
    """Tokens of one forward of the search for z above `layer`, which take half of what is free at most.

    The most of them or that halved again and again, so that the same machine chooses the same number although its free
    memory varies.
    """
    free = free_memory(adapter.blocks[layer])
    most = _MOST.get(next(adapter.blocks[layer].parameters()).device.type, _MOST["cpu"])
    if free is None:
        return most
    tokens = most
    while tokens // 2 >= _LEAST and tokens * _bytes_per_token(adapter, layer) > free // 2:
        tokens //= 2
    return tokens


def free_memory(module: torch.nn.Module) -> int | None:
    """Free bytes where a module lies; None if the system does not say."""
    device = next(module.parameters()).device
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return free_ram() if device.type == "cpu" else None


def _bytes_per_token(adapter: ModelAdapter, layer: int) -> int:
    """Activations kept for the backward of each block above `layer`, and float32 logits with their gradients.

    A block keeps about 16 vectors of the model's width and 6 of the width of its keys. Logits are needed of the
    target's tokens only, which are at most half of what stands behind a subject.
    """
    d_model, d_in = adapter.dimensions(layer)
    blocks = adapter.n_layers - 1 - layer
    vocabulary = int(adapter.model.get_output_embeddings().weight.shape[0])
    return blocks * (16 * d_model + 6 * d_in) * adapter.dtype.itemsize + 2 * 4 * vocabulary


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: a GPU's, the machine's, or Python's own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


def let_go() -> None:
    """Give back what nothing holds any more. To be called when no handler of the error is left."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halving(tokens: int, run: Callable[[int], _T]) -> _T:
    """`run(tokens)`; if memory runs out, again with half as many, down to 16, then the error. `run` starts afresh
    or goes on with what is left, as it likes.
    """
    while True:
        try:
            return run(tokens)
        except (RuntimeError, MemoryError) as error:
            if tokens <= _LEAST_HALVED or not is_out_of_memory(error):
                raise
        let_go()
        tokens //= 2


@contextmanager
def memory_errors() -> Iterator[None]:
    """EngineError instead of what torch raises when an allocation fails; all else goes through."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        first = str(error).strip().split("\n", 1)[0]
        raise EngineError(
            f"there is not enough memory for this: {first or 'an allocation failed'}",
            hint="Commit fewer facts at once, close other programs, or take a machine with more memory; nothing was "
            "stored.",
        ) from error
