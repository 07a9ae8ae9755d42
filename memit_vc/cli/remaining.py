"""How long a stage of a command still takes, and what an interrupted one leaves for the next try."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

_PART = re.compile(r"(?P<stage>.+), batch (?P<batch>\d+)(?: of about (?P<of>\d+))?")
"""A stage that is reported a batch at a time."""
_AFTER = 3.0
"""Seconds of a stage before its rest can be guessed."""

_SEARCHED = "the search of each finished group of up to 32 facts is kept; the same commit goes on from there"
KEPT = {
    "search z": _SEARCHED,
    "search residuals": _SEARCHED,
    "sample text": "the text sampled so far is kept; the same command goes on from there",
    "second moments": "the sums up to some seconds ago are kept; the same command goes on from there",
    "factor λC": "the statistics, and the factors of the finished layers, are kept",
    "replay": "each batch that was computed again is kept; the same `rebase --base` goes on from there",
    "fetch objects": "the objects that are here are kept; the same command goes on from there",
}
"""By stage, for those whose work outlives them."""


class Remaining:
    """The time that is left of each stage, as far as it is done at an even pace from where it began."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: dict[str, tuple[float, int]] = {}
        self.stage = ""
        """The newest that was reported."""

    def report(self, stage: str, done: int, total: int) -> str:
        """ "about 4 min left" once that can be guessed, else ""."""
        if part := _PART.fullmatch(stage):
            stage, done, total = part["stage"], done + total * (int(part["batch"]) - 1), total * int(part["of"] or 0)
        self.stage = "" if total and done >= total else stage
        now = self._clock()
        began, first = self._began.get(stage, (now, done))
        if done < first:  # the stage begins again
            began, first = now, done
        self._began[stage] = began, first
        if done <= first or done >= total or now - began < _AFTER:
            return ""
        return _left((now - began) * (total - done) / (done - first))

    @property
    def kept(self) -> str:
        """What the stage that was interrupted leaves; "" if that is nothing, or none was."""
        return KEPT.get(self.stage, "")


def _left(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    if seconds < 60:
        return "under a minute left"
    if minutes < 60:
        return f"about {minutes} min left"
    return f"about {minutes // 60} h {minutes % 60:02d} min left"
