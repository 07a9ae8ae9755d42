"""The same call for many items at once: for answers that one waits for, not for work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["at_once"]

WORKERS = 4
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def at_once(call: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Results in the order of the items, few of them made before they are asked for: they may be large.

    The first error is raised; what had not begun by then is left undone.
    """
    pool = ThreadPoolExecutor(WORKERS)
    running: deque[Future[_Result]] = deque()
    try:
        for item in items:
            running.append(pool.submit(call, item))
            if len(running) > WORKERS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
