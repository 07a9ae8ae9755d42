"""Which failures of the Hub pass, and how long the server asks to wait; the repeating itself is tenacity's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from memit_vc.remote.hub_errors import cause, is_transport, status_of, wait_asked

if TYPE_CHECKING:
    from tenacity import RetryCallState


ATTEMPTS = 4
LONGEST_WAIT = 120.0
"""Seconds: for a longer wait (commits are limited by the hour) the user gets an error instead."""
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_T = TypeVar("_T")


def repeated(call: Callable[[], _T]) -> _T:
    """The result of `call`, which is safe to repeat; the last error if it keeps failing."""
    import tenacity

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(passes), stop=tenacity.stop_after_attempt(ATTEMPTS), wait=_wait, reraise=True
    )
    return retrying(call)


def passes(error: BaseException) -> bool:
    """Whether a later try is likely to succeed. An answer that is not JSON comes from a proxy in between."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if hasattr(error, "snapshot_path"):
        return False  # no network, and a copy in the cache that may be enough
    asked = wait_asked(error)
    if (asked is not None and asked > LONGEST_WAIT) or isinstance(cause(error), OfflineModeIsEnabled):
        return False
    # JSONDecodeError is a subclass of ValueError under several names: json's own and that of faster parsers
    no_json = type(cause(error)).__name__ == "JSONDecodeError"
    return is_transport(error) or status_of(error) in _PASSING or no_json


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = None if error is None else wait_asked(error)
    return asked if asked is not None else wait_unasked(state)


def wait_unasked(state: RetryCallState) -> float:
    """Seconds if the server says nothing: with some randomness, so that clients that were refused together do not come
    back together.
    """
    import tenacity

    return tenacity.wait_exponential_jitter(initial=1, max=8)(state)
