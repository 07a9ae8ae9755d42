"""From a URL to a remote."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from memit_vc.errors import RemoteError, UsageError
from memit_vc.remote.bucket_store import checked_bucket, is_bucket
from memit_vc.remote.directory import DirectoryRemote
from memit_vc.remote.protocol import Remote

_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@([A-Za-z0-9_][\w./-]*))?", re.ASCII)
_SITE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/")
_PAGE = re.compile(r"([^/]+/[^/]+?)(?:\.git)?(?:/tree/([^?#]+?))?/?")
_NO_PATH = re.compile(r"\s*|[^/]*:.*|.*\\.*", re.DOTALL)
"""What is nearly an address, and on no system of ours the way to write a directory: hf:owner/name, C:\\x, a blank."""
_SECRET = re.compile(r"hf_\w{10,}|:[^/@]*@|^[^/]*@[^/]*:")
"""A token, a password, or a name before a host: addresses of git hold them; they are never kept or printed."""


Visibility: TypeAlias = Literal["private", "public"]


@dataclass(frozen=True)
class PushOptions:
    """Options of the Hub only: its own branch, pull requests, and who may see a repository that a push creates."""

    branch: str | None = None
    create_pr: bool = False
    visibility: Visibility | None = None

    @property
    def hub_only(self) -> bool:
        return self != PushOptions()


def nothing_there(url: str) -> RemoteError:
    """The error for a remote that has no history."""
    on_hub = is_hub(url, directory=Path("/"))
    if not on_hub and not is_bucket(url) and not Path(url).exists():
        return RemoteError(f"{url}: there is no such directory", hint="Check the address.")
    private = " It may also be private: log in (`hf auth login`, or HF_TOKEN) as someone who may see it."
    hint = f"Check the address, or push to it first.{private if on_hub else ''}"
    return RemoteError(f"{url}: nothing was pushed there yet", hint=hint)


def is_hub(url: str, *, directory: Path) -> bool:
    """hf://owner/name, or owner/name if no such directory exists; either may end in @branch."""
    return url.startswith("hf://") or (_HUB.fullmatch(url) is not None and not (directory / url).exists())


def checked_url(url: str, *, directory: Path) -> str:
    """The URL as it is kept: relative paths made absolute against `directory`, of the Hub hf://owner/name[@branch].

    UsageError for another scheme, and for an address that holds a secret, which is not repeated.
    """
    if _SECRET.search(url) and not (directory / url).exists():
        raise UsageError(
            "the address holds a user, a password or a token, which would be stored with it",
            hint="Write hf://owner/name; `hf auth login` keeps the token, or HF_TOKEN holds it. A bucket's credentials "
            "come from the cloud's own settings.",
        )
    if is_bucket(url):
        return checked_bucket(url)
    page = _page(url)
    if page is not None:
        url = f"hf://{page[1]}" + (f"@{unquote(page[2])}" if page[2] else "")
    if is_hub(url, directory=directory):
        name = url.removeprefix("hf://").removesuffix("/")
        if not _HUB.fullmatch(name):
            raise UsageError(
                f"{url!r} is not a Hub repository", hint="Write hf://owner/name, or hf://owner/name@branch."
            )
        return f"hf://{name.removesuffix('@main')}"
    if url.startswith("file:"):
        return _path_of(url)
    if "://" in url:  # only the scheme is repeated: an address may hold a password
        raise UsageError(
            f"{url.partition('://')[0]}:// is not a known kind of remote",
            hint="Give a directory, hf://owner/name, or s3://bucket/path (gs:// and az:// too).",
        )
    if _NO_PATH.fullmatch(url):
        near = re.sub(r"hf:/*", "hf://", url) if url.startswith("hf:") else "hf://owner/name"
        raise UsageError(
            f"{url!r} is not an address", hint=f"Write {near} for the Hub; ./NAME for a directory of such a name."
        )
    try:
        return os.path.normpath((directory / Path(url).expanduser()).absolute())
    except RuntimeError as error:
        raise UsageError(f"{url}: there is no such user here", hint="Write the directory's whole path.") from error


def _path_of(url: str) -> str:
    """The absolute path that a file:// address names. UsageError for any that names none, or more than one."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "?" in url or "#" in url or "\0" in path:
        raise UsageError(
            f"{url!r} is not the address of a directory here",
            hint="Write file:///PATH with an absolute path, or the path alone.",
        )
    return os.path.normpath(path)


def _page(url: str) -> re.Match[str] | None:
    """A page of the Hub, or of the Hub that HF_ENDPOINT names, as (owner/name, branch or None)."""
    site = _SITE.match(url)
    if site is None and url.startswith(("http://", "https://")):
        from huggingface_hub import constants

        site = re.match(re.escape(f"{constants.ENDPOINT}/"), url)
    return None if site is None else _PAGE.fullmatch(url, site.end())


def hub_name(url: str) -> tuple[str, str] | None:
    """(owner/name, branch) of a checked URL of the Hub; None for a directory and a bucket."""
    if not url.startswith("hf://"):
        return None
    name, _, branch = url.removeprefix("hf://").partition("@")
    return name, branch or "main"


def on_branch(url: str, branch: str | None) -> str:
    """The checked URL of another branch of the same Hub repository; `url` for None, and for other remotes."""
    found = hub_name(url)
    if found is None or branch is None:
        return url
    if not _HUB.fullmatch(f"{found[0]}@{branch}"):
        raise UsageError(f"{branch!r} cannot name a branch of the Hub", hint="Use letters, digits and . _ - /.")
    return f"hf://{found[0]}" if branch == "main" else f"hf://{found[0]}@{branch}"


def open_remote(url: str, options: PushOptions | None = None) -> Remote:
    """The remote of a checked URL. UsageError for options that only the Hub has."""
    options = options or PushOptions()
    url = on_branch(url, options.branch)
    found = hub_name(url)
    if found is not None:
        from memit_vc.remote.hub import HubRemote

        name, branch = found
        if options.create_pr and branch != "main":
            raise UsageError(
                f"the Hub opens a pull request on main, not on {branch}",
                hint="Leave off --create-pr or --branch; a branch of your own needs no pull request.",
            )
        return HubRemote(
            name,
            branch=branch,
            private=None if options.visibility is None else options.visibility == "private",
            create_pr=options.create_pr,
        )
    if options.hub_only:
        kind = "in a bucket" if is_bucket(url) else "a directory"
        raise UsageError(
            f"{url} is {kind}: --branch, --create-pr, --public and --private are for the Hub",
            hint="Leave them off.",
        )
    if is_bucket(url):
        from memit_vc.remote.bucket import BucketRemote

        return BucketRemote(url)
    return DirectoryRemote(Path(url))
