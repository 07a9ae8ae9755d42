"""Small JSON files that only save time: a damaged one counts as absent, one that cannot be written is let go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from memit_vc.errors import StorageError
from memit_vc.foreign.data import json_value
from memit_vc.foreign.files import read_file
from memit_vc.store.files import write_atomic

_MOST = 1 << 26
"""Bytes. An index or a config of a model is read here too, and that may be anybody's file."""


def read_or_empty(path: Path) -> dict[str, Any]:
    """The JSON object of a file; {} if none can be read. Its values may be of any shape."""
    with suppress(OSError, ValueError):
        found = json_value(read_file(path, most=_MOST))
        if isinstance(found, dict):
            return found
    return {}


def write_if_possible(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a file, whole or not at all; keys keep their order."""
    with suppress(StorageError):
        write_atomic(path, json.dumps(record, separators=(",", ":")).encode())
