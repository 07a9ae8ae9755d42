"""What the stages of `benchmarks.gpu` share: the device, the time that is left, where figures go."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

__all__ = ["Figure", "Run"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Figure:
    """One number. `goal` is what it should be, as ("≤", 1e-5)."""

    what: str
    value: float
    unit: str = ""
    goal: tuple[str, float] | None = None

    @property
    def kept(self) -> bool | None:
        if self.goal is None:
            return None
        sign, bound = self.goal
        return self.value >= bound if sign == "≥" else self.value <= bound

    def __str__(self) -> str:
        said = {None: "", True: " (met)", False: " (MISSED)"}[self.kept]
        goal = "" if self.goal is None else f"   goal {self.goal[0]} {self.goal[1]:g}{said}"
        return f"{self.what}: {self.value:.4g} {self.unit}".rstrip() + goal


@dataclass
class Run:
    """`small`: sizes for a test on the CPU, without goals of speed. `model`, `edits`: the real ones, if given."""

    device: torch.device
    small: bool
    ends: float
    work: Path
    add: Callable[[Figure], None]
    model: Path | None
    edits: Path | None
    corpus: str

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def exact(self, what: str, value: float, goal: tuple[str, float]) -> None:
        """A figure whose goal holds at any size."""
        self.add(Figure(what, value, goal=goal))

    def speed(self, what: str, value: float, unit: str, goal: tuple[str, float] | None = None) -> None:
        """A figure whose goal is about the full size on a GPU."""
        self.add(Figure(what, value, unit, None if self.small else goal))

    def timed(self, function: Callable[[], _T]) -> tuple[_T, float]:
        """The result, and seconds until the device has it."""
        self.wait()
        began = time.perf_counter()
        result = function()
        self.wait()
        return result, time.perf_counter() - began

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give back what a stage leaves behind."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
