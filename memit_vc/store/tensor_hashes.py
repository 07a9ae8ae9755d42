"""How the hashes of a state's tensors are recorded: with a digest that names the state.

`verify` goes by them. A flipped bit in one would make the right model a foreign one, and the record of another state
would make a wrong one right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memit_vc.objects import JsonValue, StateId
from memit_vc.store.sealed import seal, unseal


def sealed_hashes(state: StateId, hashes: Mapping[str, str]) -> JsonValue:
    """The record of tensor → SHA-256 of a state."""
    return seal(_kind(state), dict(hashes))


def unsealed_hashes(state: StateId, found: Any) -> dict[str, str]:
    """What `sealed_hashes` was given. ValueError for a damaged record, or one of another state."""
    hashes = unseal(_kind(state), found)
    if not isinstance(hashes, dict):
        raise ValueError("it holds no hashes")
    return {str(name): str(sha) for name, sha in hashes.items()}


def _kind(state: StateId) -> str:
    return f"tensors of state {state}"
