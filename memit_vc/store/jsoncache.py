"""Small JSON files that only save time: a damaged one counts as absent, one that cannot be written is let go."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from memit_vc.errors import StorageError
from memit_vc.foreign.data import json_value
from memit_vc.foreign.files import read_file
from memit_vc.objects import canonical_json
from memit_vc.store.files import write_atomic
from memit_vc.store.sealed import seal, unseal

_LOG = logging.getLogger(__name__)
_KIND = "cache"

_MOST = 1 << 26
"""Bytes. An index or a config of a model is read here too, and that may be anybody's file."""


def read_or_empty(path: Path) -> dict[str, Any]:
    """The JSON object of a file, whoever wrote it; {} if none can be read. Its values may be of any shape."""
    with suppress(OSError, ValueError):
        found = json_value(read_file(path, most=_MOST))
        if isinstance(found, dict):
            return found
    return {}


def recall(path: Path) -> dict[str, Any]:
    """What `remember` wrote; {} if there is nothing, or if it is damaged, which is said."""
    try:
        found = unseal(_KIND, json.loads(path.read_bytes()))
        if isinstance(found, dict):
            return found
    except OSError:
        pass
    except (ValueError, RecursionError):
        _LOG.warning("%s: is damaged; it counts as absent", path)
    return {}


def is_whole(path: Path) -> bool:
    """Whether a file is one that `remember` wrote, or is not there."""
    try:
        unseal(_KIND, json.loads(path.read_bytes()))
    except FileNotFoundError:
        return True
    except (OSError, ValueError, RecursionError):
        return False
    return True


def remember(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a file, whole or not at all, if that is possible."""
    with suppress(StorageError):
        write_atomic(path, canonical_json(seal(_KIND, dict(record))))
