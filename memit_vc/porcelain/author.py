"""Who commits, and when."""

from __future__ import annotations

import getpass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memit_vc.repository import Repository

__all__ = ["author_name", "now"]


def author_name(repository: Repository) -> str:
    """`[user] author` of config.toml, else the login name."""
    if repository.config.author:
        return repository.config.author
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a user id without a name
        return "unknown"


def now() -> str:
    """UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
