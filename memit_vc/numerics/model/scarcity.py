"""Forwards that run out of memory are tried again with half as many tokens, on any device.

The second try begins when the `except` block of the first has ended: until then the error's traceback holds every
tensor of the forward that failed, and the memory that was to be got back is still taken.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

__all__ = ["halving", "is_out_of_memory", "let_go"]

_T = TypeVar("_T")
_LEAST = 16
_SAID = ("DefaultCPUAllocator", "out of memory")
"""In the messages of torch's CPU allocator and of the GPUs that have no error class of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: a GPU's, the machine's, or Python's own."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


def let_go() -> None:
    """Give back what nothing holds any more. To be called when no handler of the error is left."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halving(tokens: int, run: Callable[[int], _T]) -> _T:
    """`run(tokens)`; where memory runs out, again with half as many, down to 16, then the error. `run` starts afresh
    or goes on with what is left, as it likes.
    """
    while True:
        try:
            return run(tokens)
        except (RuntimeError, MemoryError) as error:
            if tokens <= _LEAST or not is_out_of_memory(error):
                raise
        let_go()
        tokens //= 2
