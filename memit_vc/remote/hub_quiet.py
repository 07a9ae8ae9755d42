"""The client's own progress bars and remarks, put aside while ours are on the screen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no warnings of huggingface_hub in the block; its errors are raised as ever. Restored at the end."""
    from huggingface_hub import utils

    # names that every version has and that none lists in an __all__
    bars: Any = utils
    level, shown = utils.logging.get_verbosity(), not bars.are_progress_bars_disabled()
    utils.logging.set_verbosity(logging.ERROR)
    if shown:
        bars.disable_progress_bars()
    try:
        yield
    finally:
        utils.logging.set_verbosity(level)
        if shown:
            bars.enable_progress_bars()
