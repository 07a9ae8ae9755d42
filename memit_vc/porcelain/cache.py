"""Where this user keeps what can be obtained again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["user_cache"]


def user_cache() -> Path:
    """`$XDG_CACHE_HOME/memit-vc`, by default below ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "memit-vc"
