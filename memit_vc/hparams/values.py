"""Values of a hyperparameter file, converted by the type of their field and refused by name otherwise."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from memit_vc.errors import HparamsError
from memit_vc.foreign.text import quoted

_MOST = 2**63 - 1
"""What torch and SQLite hold."""


def _type_error(where: str, value: object, wanted: str) -> HparamsError:
    return HparamsError(f"{where} is {quoted(value)}, not {wanted}", hint=f"Give {wanted}.")


def _number(value: object, where: str) -> float:
    """YAML reads 5e-1 as text, so text is tried as a number, but only where a number belongs."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _type_error(where, value, "a number")
    try:
        return float(value)
    except OverflowError as error:
        raise HparamsError(f"{where} has too many digits", hint="Give a smaller number.") from error


def _integer(value: object, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > _MOST:
            raise HparamsError(f"{where} is larger than {_MOST}", hint="Give a smaller number.")
        return value
    number = _number(value, where)
    if not math.isfinite(number) or number != int(number):
        raise _type_error(where, value, "a whole number")
    return int(number)


def _boolean(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise _type_error(where, value, "true or false")
    return value


def _text(value: object, where: str) -> str:
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if not isinstance(value, str):
        raise _type_error(where, value, "text")
    return value


def _layers(value: object, where: str) -> list[int]:
    if not isinstance(value, list | tuple | range):
        raise _type_error(where, value, "a list of layers")
    return [_integer(layer, where) for layer in value]


def _questions(value: object, where: str) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise _type_error(where, value, 'a list of texts, such as ["{} is married to"]')
    return [_text(text, where) for text in value]


def _device(value: object, where: str) -> int | str:
    return value if isinstance(value, str) else _integer(value, where)


def _templates(value: object, where: str) -> list[list[str]] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(group, list | tuple) for group in value):
        raise _type_error(where, value, 'a list of lists of texts, such as [["{}"], ["The day. {}"]]')
    return [[_text(text, where) for text in group] for group in value]


READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "int": _integer,
    "float": _number,
    "bool": _boolean,
    "str": _text,
    "list[int]": _layers,
    "int | str": _device,
    "Any": lambda value, _: value,
    "EarlyStop": _text,
    "SearchFor": _text,
    "list[list[str]] | None": _templates,
    "list[str] | None": _questions,
}
