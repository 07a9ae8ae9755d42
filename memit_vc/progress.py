"""Progress as a callback: the library reports, the CLI draws. Also how both write numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""`progress(stage, done, total)`: called from time to time; `total` 0 means unknown; `done == total` ends the stage."""


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""
    del stage, done, total


def count(number: int, noun: str, ending: str = "s") -> str:
    """ "1 fact", "2 facts", "1,000 facts"; "2 patches" with `ending` "es"."""
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def size_text(size: int) -> str:
    """ "425 kB": decimal units, as file managers and the Hub show them."""
    if size < 1000:
        return f"{size} bytes"
    value = float(size)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 1000 or unit == "TB":
            break
    return f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """A length of time that is not meant to the second: "5 s", "80 s", "4 min", "2 h"."""
    if seconds < 120:
        return f"{5 * max(1, round(seconds / 5))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"
