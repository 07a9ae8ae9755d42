"""The solve of one layer: Woodbury on a kept factor, against a dense float64 system, for many sizes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.places import Options
from benchmarks.report import Report, Row
from memit_vc.foreign.ram import free_ram
from memit_vc.numerics.edit.solve import adjusted_keys
from memit_vc.numerics.statistics.factors import factorise
from memit_vc.progress import count

__all__ = ["run"]

PROMISED, FACTS, LAMBDA = 14336, 100, 15000.0
SIZES = (1024, 2048, 4096, 8192, PROMISED, 16384)
COUNTS = (1, 10, 100, 1000)
_COPIES = 6
"""Float64 matrices [d, d] that a case holds at once, C as float32 and the dense solver's copies included."""

_T = TypeVar("_T")


def run(options: Options) -> Report:
    """d_in from 1k to 16k with 100 facts, both sides; 1 to 1,000 facts at 14,336 (Llama-3-8B), ours alone."""
    sizes, counts = ((256, 512), (1, 10, 100)) if options.quick else (SIZES, COUNTS)
    rows: list[Row] = []
    for size in sizes:
        free = free_ram()
        if free is not None and _COPIES * 8 * size**2 > free:
            print(f"  solve: d_in {size} left out, {free / 1e9:.1f} GB of memory are free")
            continue
        rows += _size(size, counts if size in (512, PROMISED) else ())
        gc.collect()
    settings = {"λ": LAMBDA, "dtype": "float64"}
    what = "solve of one layer, without the time to factor λC"
    return Report("solve", what, "one dense float64 solve", settings, rows)


def _size(size: int, counts: tuple[int, ...]) -> list[Row]:
    facts = min(FACTS, size // 4)
    moment, generator = _moment(size)
    factor, factoring = _timed(lambda: factorise(moment, LAMBDA))
    keys = _keys(moment, facts, generator)
    solution, ours = _best(lambda: adjusted_keys(factor, keys))
    more = {"factoring once, s": factoring}
    case = f"d_in {size:,}, {count(facts, 'fact')}"
    rows = [_row(case, ours, *_dense(moment, keys, solution), size == PROMISED, more)]
    for number in counts:
        many = _keys(moment, number, generator)
        _, seconds = _best(lambda many=many: adjusted_keys(factor, many))  # type: ignore[misc]
        case = f"d_in {size:,}, {count(number, 'fact')}, ours alone"
        rows.append(Row(case, seconds, more={"ms/fact": 1000 * seconds / number}))
    return rows


def _row(case: str, ours: float, theirs: float, difference: float, promised: bool, more: dict[str, float]) -> Row:
    return Row(case, ours, theirs, difference=difference, goal=("≥", 20.0) if promised else None, more=more)


def _dense(moment: Tensor, keys: Tensor, solution: Tensor) -> tuple[float, float]:
    """Seconds of the dense solve, and how far the solutions are apart."""
    expected, seconds = _timed(lambda: reference.solve(moment, LAMBDA, keys))
    return seconds, float((solution - expected).norm() / expected.norm())


def _moment(size: int) -> tuple[Tensor, torch.Generator]:
    """C [d, d] float32 whose spectrum falls over four decades, as that of real keys does."""
    generator = torch.Generator().manual_seed(size)
    rank = max(8, size // 8)
    factors = torch.randn(size, rank, generator=generator) / rank**0.5
    scales = torch.logspace(0, -2, size)[torch.randperm(size, generator=generator)]
    moment = factors @ factors.T
    moment.diagonal().add_(1.0)
    moment.mul_(scales[:, None]).mul_(scales)
    # exactly symmetric, as collected moments are: the dense solver would not make it so
    return (moment + moment.T).div_(2), generator


def _keys(moment: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """K [d, n] float64 of the size that keys with this second moment have."""
    noise = torch.randn(moment.shape[0], count, generator=generator, dtype=torch.float64)
    return noise * moment.diagonal().double().sqrt()[:, None]


def _timed(function: Callable[[], _T]) -> tuple[_T, float]:
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


def _best(function: Callable[[], _T]) -> tuple[_T, float]:
    """The result, and the shortest of three: the first call also brings the factor into memory."""
    runs = [_timed(function) for _ in range(3)]
    return runs[-1][0], min(seconds for _, seconds in runs)
