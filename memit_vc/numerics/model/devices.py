"""Where the float64 products and solves of an edit run: on the model's GPU where that has float64 units, else the CPU.

Most GPUs compute float64 at a thirty-second or a sixty-fourth of their float32 rate, which a few CPU cores match. The
results of two devices differ in the last bits; a commit's provenance names the device of its model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from memit_vc.errors import EngineError
from memit_vc.numerics.model.memory import is_out_of_memory, let_go

CPU = torch.device("cpu")
_FULL_RATE = frozenset({(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)})
"""Compute capabilities of the data-centre parts (P100, V100, A100, H100, B200); 6.1, 7.5, 8.6, 8.9, 10.3 and 12.0 have
few float64 units.
"""

_T = TypeVar("_T")


def is_full_rate(capability: tuple[int, int]) -> bool:
    """Whether a GPU of this compute capability has float64 at half its float32 rate."""
    return capability in _FULL_RATE


def placed(model: Any, device: str) -> Any:
    """The model on a device. EngineError if torch cannot use the device; a lack of memory stays what it is."""
    try:
        return model.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        first = str(error).strip().split("\n", 1)[0]
        raise EngineError(
            f"the model cannot be put on device {device}: {first}",
            hint="Set `device` in the hyperparameters: cpu, or one of the GPUs of this machine, from 0. With torchrun, "
            "start as many processes as there are GPUs.",
        ) from error


def float64_device(near: torch.device) -> torch.device:
    """The device for float64 sums of what lies on `near`: the CPU for one that has none (Apple's GPUs)."""
    return CPU if near.type == "mps" else near


def solve_device(near: torch.device) -> torch.device:
    """The device for the solve of a layer that lies on `near`."""
    if near.type == "cuda" and is_full_rate(torch.cuda.get_device_capability(near)):
        return near
    return CPU


def computed_on(device: torch.device, run: Callable[..., _T]) -> _T:
    """`run(device=device)`, on the CPU instead where the device has too little memory for it."""
    try:
        return run(device=device)
    except (RuntimeError, MemoryError) as error:
        if device == CPU or not is_out_of_memory(error):
            raise
    let_go()
    return run(device=CPU)
