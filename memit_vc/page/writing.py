"""Where a page goes: a new file, or an earlier page of ours."""

from __future__ import annotations

from pathlib import Path

from memit_vc.errors import UsageError
from memit_vc.page.render import GENERATOR
from memit_vc.store.files import storage_errors, write_atomic

_MARK = f'<meta name="generator" content="{GENERATOR}"'.encode()


def write_page(path: Path, page: str) -> int:
    """Write it whole or not at all; the bytes written. UsageError if what is there is not a report."""
    with storage_errors(path):
        earlier = path.exists()
        if earlier and _MARK not in path.open("rb").read(1000):
            raise UsageError(f"{path} exists and is not a report", hint="Name another file with -o.")
    encoded = page.encode()
    write_atomic(path, encoded, replace=earlier)
    return len(encoded)
