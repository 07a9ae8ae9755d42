"""Canonical JSON of strangers, and what to say when it is not ours."""

from __future__ import annotations

from typing import Any

from memit_vc.errors import IntegrityError
from memit_vc.foreign.data import json_value
from memit_vc.foreign.refused import Refused, hint_of
from memit_vc.objects import canonical_json

DISTRUST = "Nothing was stored. The remote is damaged or was made to mislead; ask the person who pushed it."
"""The hint for everything that memit-vc would not have pushed."""


def canonical(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object in canonical form. IntegrityError, about `name`, for anything else."""
    try:
        record = json_value(data)
        is_canonical = isinstance(record, dict) and canonical_json(record) == data
    except Refused as error:
        raise IntegrityError(f"{name} {error}", hint=hint_of(error, DISTRUST)) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{name} is not JSON: {error}", hint=DISTRUST) from error
    if not is_canonical:
        raise IntegrityError(f"{name} is not canonical JSON", hint=DISTRUST)
    return dict(record)
