"""What is wrong with one record of an edit file."""

from __future__ import annotations

from collections.abc import Mapping


class RecordProblem(Exception):  # noqa: N818 (never leaves this package)
    """What is wrong with one record, and what to do; the batch adds the file and the record's number."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


def kind_of(value: object) -> str:
    """What a JSON value is, in words: "a list", "the number 3"."""
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return f"the {'truth value' if isinstance(value, bool) else 'number'} {value}"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"
