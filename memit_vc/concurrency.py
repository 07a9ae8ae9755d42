"""The same call for many items on a few threads, with the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ordered_map(
    call: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    workers: int = 4,
    ahead: int = 0,
    initializer: Callable[[], None] | None = None,
) -> Iterator[_Result]:
    """`call(item)` for each item. At most `workers` + `ahead` results wait to be taken: they may be large.

    `initializer` is called once on each thread. The first error is raised; calls that have not begun are dropped.
    """
    running: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(workers, initializer=initializer)
    try:
        for item in items:
            running.append(pool.submit(call, item))
            if len(running) > workers + ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
