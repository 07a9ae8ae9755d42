"""Rows whose JSON is read: the one place where damage in one becomes an error that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from memit_vc.errors import IntegrityError
from memit_vc.objects import digest, short

BAD_JSON = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)
"""What reading a damaged record raises."""
DAMAGED = "Run `memitvc fsck`, which lists what is damaged; `memitvc fsck --rebuild` makes meta.db again."
_T = TypeVar("_T")


def parsed(
    what: str, name: object, text: object, parse: Callable[[Any], _T] = lambda value: value, *, kind: str | None = None
) -> _T:
    """`parse` of a row's JSON. `what` and `name` say which row: "commit", its id.

    With `kind`, `name` is the digest of the text. IntegrityError.
    """
    try:
        if not isinstance(text, str):
            raise TypeError("its record is not text")
        if kind is not None and digest(kind, text.encode()) != name:
            raise ValueError("its record does not hash to its id")
        return parse(json.loads(text))
    except BAD_JSON as error:
        raise bad_row(what, name, error) from error


def bad_row(what: str, name: object, reason: object) -> IntegrityError:
    return IntegrityError(f"meta.db: {what} {short(str(name))} is damaged: {reason}", hint=DAMAGED)
