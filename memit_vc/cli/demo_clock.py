"""How long the demo still takes: what its parts take on two quiet cores, at the pace of this machine so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from memit_vc.progress import duration

PARTS: Mapping[str, float] = {
    "init": 4,
    "first commit": 36,
    "second commit": 33,
    "first revert": 1,
    "checkout": 2,
    "answers": 8,
    "second revert": 1,
}
"""Seconds a part, in the order of the story: estimates that add up to 85 s on two quiet cores. It took 104 s on a
machine on which an earlier story, of 65 s, took 83.
"""
_ENOUGH = 5.0
"""Planned seconds after which the pace of a machine can be told."""


class Clock:
    """Asked at the beginning of each part, what is left of the story from there."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()

    def left(self, part: str) -> str:
        """ "about 80 s left": from the beginning of `part` to the end."""
        names = list(PARTS)
        before = sum(PARTS[name] for name in names[: names.index(part)])
        pace = (self._now() - self._began) / before if before >= _ENOUGH else 1.0
        return f"about {duration(pace * (sum(PARTS.values()) - before))} left"
