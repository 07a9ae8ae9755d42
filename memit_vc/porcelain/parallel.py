"""The same call for many items at once: for answers that one waits for, not for work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["at_once"]

WORKERS = 4
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def at_once(call: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Results in the order of the items. The first error is raised; what had not begun by then is left undone."""
    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield from pool.map(call, items)
    finally:
        pool.shutdown(cancel_futures=True)
