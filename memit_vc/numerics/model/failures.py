"""Memory that torch does not get, as an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from memit_vc.errors import EngineError

__all__ = ["memory_errors"]

_SAID = ("out of memory", "not enough memory", "can't allocate memory")
"""How torch's allocators put it; on the CPU it is a plain RuntimeError."""


@contextmanager
def memory_errors() -> Iterator[None]:
    """EngineError in the place of what torch raises where an allocation fails; all else goes through."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not any(s in text for s in _SAID):
            raise
        first = text.strip().split("\n", 1)[0]
        raise EngineError(
            f"there is not enough memory for this: {first or 'an allocation failed'}",
            hint="Commit fewer facts at once, close other programs, or take a machine with more memory; nothing was "
            "stored.",
        ) from error
