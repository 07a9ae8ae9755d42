"""When a sum of columns is exact: float64 holds every integer below 2^53."""

from __future__ import annotations

from collections.abc import Mapping

from memit_vc.errors import EngineError

EXACT_SUM = 2.0**53
"""Grid units up to which float64 holds every integer."""


def check_bound(total: Mapping[str, float]) -> None:
    """Refuse a state whose summed bounds (weight -> grid units) reach 2^53: its sums could round. EngineError."""
    for name, units in sorted(total.items()):
        if not units < EXACT_SUM:
            raise EngineError(
                f"{name}: the live updates add up to {units / EXACT_SUM:.3g} of the most that exact sums can hold "
                f"(2^53 grid units, about 512 times the weight's largest entry)",
                hint="Revert some edits, or squash with --resolve, which solves the live facts again.",
            )
