"""Files that stand where another one should be: a Git LFS pointer, a web page that says "not found" or "log in"."""

from __future__ import annotations

from pathlib import Path

from memit_vc.foreign.files import opened
from memit_vc.foreign.refused import Refused

_START = 512
_PAGES = (b"<!doctype html", b"<html")


def check_real(start: bytes, *, pages: bool = True) -> None:
    """Refused if a file that starts so stands in another one's place. Without `pages` a web page is itself."""
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        raise Refused(
            "is a Git LFS pointer, not the file itself", hint="Run `git lfs pull` where it came from, then try again."
        )
    text = start[:_START].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if pages and (text.startswith(_PAGES) or text.rstrip() == b"404: not found"):
        raise Refused(
            "is a web page, not the file itself", hint="Download the file again; its address may ask for a login."
        )


def check_real_file(path: Path) -> None:
    """The same for a file; OSError as the system raises it."""
    with opened(path) as file:
        check_real(file.read(_START))
