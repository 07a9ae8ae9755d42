"""What an attack found: counts, faults with the number that repeats them, the slowest, the peak of memory."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Found", "own_clock"]


def own_clock() -> float:
    """Seconds as if this process had a core to itself: what it waited for others to leave theirs is not counted."""
    try:
        waited = int(Path("/proc/self/schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        waited = 0
    return time.monotonic() - waited / 1e9


@dataclass
class Found:
    """The result of one part."""

    part: str
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    now: str = ""
    peak: int = 0
    started: float = field(default_factory=time.monotonic)

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def fault(self, what: str) -> None:
        self.faults.append(f"{self.now}: {what}")
        print(f"FAULT {self.faults[-1]}", flush=True)

    def took(self, seconds: float, what: str) -> None:
        self.slowest = max(self.slowest, (seconds, f"{self.now}: {what}"))

    @contextmanager
    def at(self, number: str) -> Iterator[None]:
        """In the block, this try is under way. What it raises is a fault."""
        self.now = number
        self.count("tries")
        if self.counts["tries"] % 50 == 0:
            print(f"{self.part}: {self.counts['tries']} tries, {len(self.faults)} faults", flush=True)
        try:
            yield
        except Exception:
            self.fault(traceback.format_exc())

    def summary(self) -> dict[str, Any]:
        return {
            "part": self.part,
            "seconds": round(time.monotonic() - self.started, 1),
            "counts": dict(sorted(self.counts.items())),
            "slowest": [round(self.slowest[0], 2), self.slowest[1]],
            "peak_mb": self.peak,
            "faults": self.faults,
        }
