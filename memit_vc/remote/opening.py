"""From a URL to a remote."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from memit_vc.errors import UsageError
from memit_vc.remote.directory import DirectoryRemote
from memit_vc.remote.protocol import Remote

__all__ = ["PushOptions", "checked_url", "is_hub", "open_remote"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class PushOptions:
    """What only the Hub knows: its own branch, pull requests, and who may see a repository that a push creates."""

    branch: str | None = None
    create_pr: bool = False
    visibility: Literal["private", "public"] | None = None

    @property
    def hub_only(self) -> bool:
        return self != PushOptions()


def is_hub(url: str, *, directory: Path) -> bool:
    """hf://owner/name, or owner/name where no such directory exists."""
    return url.startswith("hf://") or (_HUB_ID.fullmatch(url) is not None and not (directory / url).exists())


def checked_url(url: str, *, directory: Path) -> str:
    """The URL as it is kept: relative paths made absolute against `directory`. UsageError for another scheme."""
    if is_hub(url, directory=directory):
        name = url.removeprefix("hf://")
        if not _HUB_ID.fullmatch(name):
            raise UsageError(f"{url!r} is no Hub repository", hint="Write hf://owner/name.")
        return f"hf://{name}"
    if url.startswith("file://"):
        return unquote(urlsplit(url).path)
    if "://" in url:  # only the scheme is repeated: an address may hold a password
        raise UsageError(
            f"{url.partition('://')[0]}:// is not a kind of remote that is known",
            hint="Give a directory, or hf://owner/name.",
        )
    return os.path.normpath((directory / Path(url).expanduser()).absolute())


def open_remote(url: str, options: PushOptions | None = None) -> Remote:
    """The remote of a checked URL. UsageError for options that a directory does not have."""
    options = options or PushOptions()
    if url.startswith("hf://"):
        from memit_vc.remote.hub import HubRemote

        return HubRemote(
            url.removeprefix("hf://"),
            branch=options.branch or "main",
            private=None if options.visibility is None else options.visibility == "private",
            create_pr=options.create_pr,
        )
    if options.hub_only:
        raise UsageError(
            f"{url} is a directory: --branch, --create-pr, --public and --private are for the Hub",
            hint="Leave them off.",
        )
    return DirectoryRemote(Path(url))
