"""Progress as a callback: the library reports, the CLI draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Progress", "silent"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""`progress(stage, done, total)`: called from time to time; `total` 0 means unknown; `done == total` ends the stage."""


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""
    del stage, done, total
