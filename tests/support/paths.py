"""Where the checkout is, and what lies in it and beside it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["GOLDEN", "ROOT", "SHARED"]

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared"
"""Larger reference data, where there are any."""
