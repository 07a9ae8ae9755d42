"""The client's own progress bars and remarks, put aside while ours are on the screen."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_inside = 0
_before: tuple[int, bool] = (logging.WARNING, False)


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no warnings of huggingface_hub in the block; its errors are raised as ever.

    The settings are the process's: they go back to what they were when the last of several threads leaves.
    """
    global _inside, _before
    from huggingface_hub import utils

    bars: Any = utils  # names that every version has and that none lists in an __all__
    with _lock:
        if not _inside:
            _before = (utils.logging.get_verbosity(), not bars.are_progress_bars_disabled())
            utils.logging.set_verbosity(logging.ERROR)
            if _before[1]:
                bars.disable_progress_bars()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                utils.logging.set_verbosity(_before[0])
                if _before[1]:
                    bars.enable_progress_bars()
