"""Blocks worked on in parallel, results in order, a few at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

import torch

from memit_vc.concurrency import ordered_map

_AHEAD = 4
"""Results that may wait while all workers work, so that no worker waits."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def block_map(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """`work(item)` for each item, in order, on as many threads as torch would use; few results wait at any time.

    Whole blocks go to threads, each of them single-threaded inside: that keeps every processor busy without a barrier
    after each elementwise operation, which on a busy machine costs more than the operation.
    """
    items = iter(items)
    head = list(islice(items, 2))
    if len(head) < 2:
        yield from map(work, head)
        return
    # where torch has its own thread pool the number of threads is not a thread's own: leave it alone
    own = bool(torch.backends.openmp.is_available())  # type: ignore[no-untyped-call]
    threads = torch.get_num_threads()
    workers = min(threads, os.cpu_count() or 1) if own else 1
    initializer = _single_threaded if own else None
    try:
        yield from ordered_map(
            work, chain(head, items), workers=workers, ahead=min(workers, _AHEAD), initializer=initializer
        )
    finally:
        if own:
            torch.set_num_threads(threads)  # for threads that are still to come: see `_single_threaded`


def _single_threaded() -> None:
    """With OpenMP this is a property of the calling thread; but one that uses torch for the first time takes over what
    any thread set last.
    """
    torch.set_num_threads(1)
