"""The adapters that are live in a state: name, licence and source, as they were told at the import. No model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memit_vc.errors import MemitVCError
from memit_vc.foreign.text import one_line
from memit_vc.objects import BlobId, PatchId

if TYPE_CHECKING:
    from memit_vc.porcelain.state import LiveState
    from memit_vc.repository import Repository


@dataclass(frozen=True)
class Adapter:
    """An adapter, by its patch. `sha256` is that of the file it came in. None for what nobody said."""

    patch: PatchId
    name: str
    licence: str | None
    source: str | None
    sha256: str | None


def live_adapters(state: LiveState) -> list[Adapter]:
    """Those of a state, sorted by patch."""
    patches = state.adapters.patches
    return [
        Adapter(
            patch,
            _text(record, "name") or f"adapter {patch[:10]}",
            _text(record, "licence"),
            _text(record, "source"),
            _text(record, "sha256"),
        )
        for patch, known in sorted(patches.items())
        for record in [_told(state.repository, known.header.provenance)]
    ]


def _told(repository: Repository, blob: BlobId | None) -> Mapping[str, Any]:
    """What its provenance says of an adapter; it may be a stranger's, so anything may be in it."""
    with suppress(MemitVCError, ValueError):
        record = json.loads(repository.blobs.read(blob)) if blob is not None else {}
        found = record.get("adapter") if isinstance(record, dict) else None
        return found if isinstance(found, dict) else {}
    return {}


def _text(record: Mapping[str, Any], key: str) -> str | None:
    value = record.get(key)
    return one_line(value) if isinstance(value, str) and value else None
