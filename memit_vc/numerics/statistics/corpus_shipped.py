"""The text that comes with memit-vc: sampled once from a small model by `python -m benchmarks.sample_text`.

Generated English, so it is nobody's sentences and needs no file, no network and no waiting. `text/shipped.json` says
which model wrote it, with which seed and settings.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import zlib
from collections.abc import Iterator, Mapping

from memit_vc.config import data_directory
from memit_vc.errors import StorageError
from memit_vc.objects.ids import JsonValue

_DAMAGED = "Reinstall memit-vc, or name another corpus: `memitvc stats --corpus TEXT`."


def shipped_source(seed: int) -> tuple[Mapping[str, JsonValue], list[str]]:
    """What it is, and its texts in an order that the seed gives. StorageError if a file is missing or damaged."""
    directory = data_directory("text")
    path = directory / "shipped.jsonl.gz"
    try:
        plain = gzip.decompress(path.read_bytes())
        recorded = json.loads((directory / "shipped.json").read_bytes())["sha256"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise StorageError(
            f"{path}: the text that comes with memit-vc cannot be read: {error}", hint=_DAMAGED
        ) from error
    content = hashlib.sha256(plain).hexdigest()
    if content != recorded:
        raise StorageError(f"{path}: the text that comes with memit-vc is damaged", hint=_DAMAGED)
    texts = list(_texts(plain))
    random.Random(seed).shuffle(texts)  # noqa: S311 (an order, not a secret)
    return {"kind": "shipped", "name": "shipped", "sha256": content, "field": None, "seed": seed}, texts


def _texts(plain: bytes) -> Iterator[str]:
    for line in plain.splitlines():
        yield str(json.loads(line))
