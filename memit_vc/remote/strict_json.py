"""JSON of strangers, read in memory that its size bounds."""

from __future__ import annotations

import json
from typing import Any

MOST_VALUES = 1 << 21
"""Twice what a batch of ten thousand facts with all its probes and scores has."""


def parsed(data: bytes) -> Any:
    """`json.loads`. ValueError before anything is built where there are more values than anybody writes.

    Python needs some 70 bytes for an empty object, which takes 3 in a file: without a limit a small file fills the
    memory. What ends a value is counted, in texts too: that only makes the count too high.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    return json.loads(data)
