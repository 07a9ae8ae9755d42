"""JSON that carries its own digest: records that are believed later without being computed again.

One flipped bit in such a record is a plausible other record: another state's hash, another norm, other statistics.
"""

from __future__ import annotations

from typing import Any

from memit_vc.objects import JsonValue, canonical_json, digest


def seal(kind: str, record: JsonValue) -> dict[str, JsonValue]:
    """The record with its digest. `kind` says what it is and, where it is about one thing only, about which."""
    return {"record": record, "digest": digest(kind, canonical_json(record))}


def unseal(kind: str, found: Any) -> Any:
    """The record. ValueError if it is not what `seal` was given."""
    if not isinstance(found, dict) or found.keys() != {"record", "digest"}:
        raise ValueError("it is not a record with a digest")
    try:
        promised = digest(kind, canonical_json(found["record"]))
    except (TypeError, ValueError, RecursionError):
        promised = None
    if found["digest"] != promised:
        raise ValueError("it does not have the digest that it was written with")
    return found["record"]
