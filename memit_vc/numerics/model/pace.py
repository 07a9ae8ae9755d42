"""How long work will take on this machine: a short probe of its speed, and what a model's edits cost at that speed.

Meant to tell a coffee from a night: the figures are those of SmolLM2-135M on two cores, in proportion to the work.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.memory import is_out_of_memory

_PROBE = 0.05
_WIDTH = 1024
_FACT_TOKENS = 2600
"""What the search for a fact's residuals costs, as tokens that run through all blocks once."""
_WRITING = 2.5
"""A token that the model writes costs so many times one that it reads: a few rows at a time, and the vocabulary."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds, roughly: for the statistics of the edited layers, once, and for each fact of a commit."""

    statistics: float
    fact: float


def expected_pace(
    adapter: ModelAdapter, layers: Sequence[int], *, device: str, tokens: int, writes: bool
) -> Pace | None:
    """What `tokens` of statistics of `layers` and a fact will take with the model on `device`. Here it may be without
    its weights. `writes`: the model writes the text itself. None if the device has no memory for the probe.
    """
    speed = _operations_a_second(device)
    if speed is None:
        return None
    blocks = [sum(weight.numel() for weight in block.parameters()) for block in adapter.blocks]
    read = 2 * tokens * sum(blocks[: max(layers) + 1])
    head = int(adapter.model.get_output_embeddings().weight.numel())
    written = 2 * tokens * (sum(blocks) + head) * _WRITING if writes else 0
    return Pace((read + written) / speed, 2 * _FACT_TOKENS * sum(blocks) / speed)


def _operations_a_second(device: str) -> float | None:
    """Multiplications and additions of a float32 product; the best of some products, as others work here too."""
    try:
        matrix = torch.ones(_WIDTH, _WIDTH, device=device)
        best, ends = float("inf"), time.monotonic() + _PROBE
        float((matrix @ matrix)[0, 0])  # the first one also loads a library
        while time.monotonic() < ends or best == float("inf"):
            began = time.monotonic()
            float((matrix @ matrix)[0, 0])  # waits for a GPU
            best = min(best, time.monotonic() - began)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return 2 * _WIDTH**3 / best
