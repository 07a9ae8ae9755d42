"""What the Hub's client raises, as one kind of error with its cause and what to do (seen with huggingface_hub 2.4).

The client has no family of its own: HTTP answers, transport errors, `ConnectionError` without a status (Xet),
`RuntimeError` around an upload, `ValueError` and `KeyError` for an answer that it does not understand.
Text of the server is shown in part and never a header: tokens travel in headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from memit_vc.errors import MemitVCError, RemoteError
from memit_vc.remote.hub_settings import unusable_setting
from memit_vc.store.files import storage_errors

_LOGIN = "Run `hf auth login`, or set HF_TOKEN, with a token that may {verb} it."
_SECRET = re.compile(r"\bhf_\w+|(?i:bearer)\s+\S+|(?<=[?&])[^\s=]*(?:signature|token|credential)[^\s=]*=\S+")
_LONGEST = 300


@contextmanager
def hub_errors(url: str, doing: str, *, writing: bool = False, target: Path | None = None) -> Iterator[None]:
    """Turn whatever the client raises in the block into a RemoteError; `doing` completes "while …".

    `target` is the local file that is being written: what the system says about it becomes a StorageError.
    """
    try:
        yield
    except MemitVCError:
        raise
    except Exception as error:  # the client raises what its layers raise; Ctrl-C is not an Exception
        found = cause(error)
        is_remote = status_of(found) is not None or is_transport(found)
        if target is not None and isinstance(found, OSError) and found.errno is not None and not is_remote:
            with storage_errors(target):
                raise found from None
        raise translated(error, url, doing, writing=writing) from error


def cause(error: BaseException) -> BaseException:
    """The error below the client's wrappers: "not in the cache" and "while uploading" say nothing of why."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error, LocalEntryNotFoundError | RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an error, if an answer came at all."""
    response = getattr(cause(error), "response", None)
    return None if response is None else int(response.status_code)


def wait_asked(error: BaseException) -> float | None:
    """Seconds that the server asks for: Retry-After, or the reset time of an exhausted limit."""
    response: Any = getattr(cause(error), "response", None)
    if response is None:
        return None
    after = response.headers.get("Retry-After", "")
    if after.isdigit():
        return float(after)
    try:
        date = parsedate_to_datetime(after)
    except ValueError:
        date = None
    if date is not None and date.tzinfo is not None:
        return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
    if response.status_code == 429:
        found = re.search(r";\s*r=0\s*;\s*t=(\d+)", response.headers.get("RateLimit", ""))
        if found:
            return float(found[1])
        said = re.search(r"retry this action in (\d+) minute", str(getattr(cause(error), "server_message", "")))
        if said:
            return float(said[1]) * 60
    return None


def is_transport(error: BaseException) -> bool:
    """No answer, or none that can be understood: what was asked for may or may not have been done."""
    from huggingface_hub.errors import HfHubHTTPError

    found = cause(error)
    http_error = HfHubHTTPError.__bases__[0]  # httpx's, under whichever name this version of the client imports it
    if isinstance(found, HfHubHTTPError) or xet_status(found) is not None:
        return False
    return isinstance(found, http_error | ConnectionError | TimeoutError)


def xet_status(error: BaseException) -> int | None:
    """hf_xet raises `ConnectionError` without a response; a refusal's status stands in its text."""
    found = re.search(r"\b(40[134])\b", str(error)) if type(error) is ConnectionError else None
    return None if found is None else int(found[1])


def translated(error: BaseException, url: str, doing: str, *, writing: bool = False) -> RemoteError:
    """The RemoteError for an exception of the client."""
    message, hint = _explained(cause(error), url, writing=writing)
    return RemoteError(f"{url}: {message} (while {doing})", hint=hint)


def _explained(error: BaseException, url: str, *, writing: bool) -> tuple[str, str]:
    from huggingface_hub import constants, errors

    setting = unusable_setting(error)
    if setting is not None:
        return setting
    login = _LOGIN.format(verb="write to" if writing else "read")
    page = f"{constants.ENDPOINT}/{url.removeprefix('hf://').partition('@')[0]}"
    if isinstance(error, errors.GatedRepoError):
        return "this repository is gated, and you do not have access", f"Ask for access at {page}, then log in."
    if isinstance(error, errors.DisabledRepoError):
        return "the Hub has disabled this repository", f"{page} says why."
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private and you may not see it", f"Check the name. {login}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such branch, tag or commit", "Check the name of the branch."
    if isinstance(error, errors.EntryNotFoundError) and status_of(error) is not None:
        return "the repository lacks a file that it should have", "It was not pushed by memit-vc, or was damaged since."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "the client is in offline mode", "Unset HF_HUB_OFFLINE."
    if isinstance(error, errors.HFValidationError):
        return _text(error), "A repository's name is owner/name."
    status = status_of(error)
    if status is not None:
        return _of_status(status, error, login, writing=writing)
    refusal = xet_status(error)
    if refusal == 404:
        return "this Hub has no Xet storage", "Set HF_HUB_DISABLE_XET=1 and run the command again."
    if refusal is not None:
        return f"the storage refuses your token, HTTP {refusal}", login
    if is_transport(error):
        return f"the connection failed: {_text(error)}", "Check the network and run the command again; it continues."
    if isinstance(error, errors.FileDuplicationError):
        return f"the Hub did not copy the base's files: {_text(error)}", "Push without copying, or try again later."
    if isinstance(error, errors.FileMetadataError | ValueError | KeyError):
        what = f"the answer cannot be understood: {_text(error)}"
        return what, "Look for a proxy that answers instead of the Hub, or try again later."
    return _text(error), "Run the command again; it continues where it was."


def _of_status(status: int, error: Any, login: str, *, writing: bool) -> tuple[str, str]:
    said = _text(getattr(error, "server_message", None) or "")
    also = f": {said}" if said else ""
    if status == 401:
        return f"the Hub does not accept your token, or wants one{also}", login
    if status == 403 and writing:
        instead = "In a repository that you can see, `memitvc push --create-pr` may propose the change instead."
        return f"you may not write here{also}", f"{login} {instead}"
    if status == 403:
        return f"you may not read this{also}", login
    if status == 429:
        asked = wait_asked(error)
        wait = "" if asked is None else f"; it asks to wait {asked:.0f} s"
        return f"the Hub's rate limit is reached{wait}{also}", "Wait as long as it says, then run the command again."
    if status >= 500:
        return f"the Hub has a problem of its own, HTTP {status}{also}", "Try again later; nothing was changed here."
    if status == 409:
        return f"it exists already{also}", "Choose another name."
    return f"the Hub refuses this, HTTP {status}{also}", "If this is not clear, please report it."


def _text(error: BaseException | str) -> str:
    """One line without anything that could be a secret, or that a terminal takes for a command."""
    from huggingface_hub import get_token

    said, token = str(error), get_token()
    if token:
        said = said.replace(token, "…")
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", _SECRET.sub("…", said)).split())
    name = type(error).__name__ if isinstance(error, BaseException) else ""
    return (line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…") or name
