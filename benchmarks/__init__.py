"""Ratios of the engine against a plain way of doing the same, both measured in one run: `python -m benchmarks`."""
