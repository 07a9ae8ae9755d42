"""JSON of strangers, read in memory that its size bounds, and what to say when it is not ours."""

from __future__ import annotations

import json
from typing import Any

from memit_vc.errors import IntegrityError
from memit_vc.objects import canonical_json

DISTRUST = "Nothing was stored. The remote is damaged or was made to mislead; ask the person who pushed it."
"""The hint for everything that memit-vc would not have pushed."""
MOST_VALUES = 1 << 21
"""Twice what a batch of ten thousand facts with all its probes and scores has."""


def parsed(data: bytes) -> Any:
    """`json.loads`. ValueError, before anything is built, if there are more values than anyone writes.

    Python needs some 70 bytes for an empty object, which takes 3 in a file: without a limit a small file fills the
    memory. What ends a value is counted, in texts too: that only makes the count too high.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    return json.loads(data)


def canonical(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object in canonical form. IntegrityError, about `name`, for anything else."""
    try:
        record = parsed(data)
        is_canonical = isinstance(record, dict) and canonical_json(record) == data
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{name} is not JSON: {error}", hint=DISTRUST) from error
    if not is_canonical:
        raise IntegrityError(f"{name} is not canonical JSON", hint=DISTRUST)
    return dict(record)
