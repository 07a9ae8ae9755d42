"""JSON and YAML of others, parsed in memory that their size bounds.

Python needs some 70 bytes for an empty object, which takes 3 in a file: without a limit a small file fills the memory.
So what ends a value is counted before anything is built; the same characters in texts only make the count too high.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from memit_vc.foreign.placeholders import check_real
from memit_vc.foreign.refused import Refused

MOST_VALUES = 1 << 21
"""Twice what a batch of ten thousand facts with all its probes and scores has."""
MOST_DEPTH = 64
"""Levels of lists and objects; what memit-vc and transformers write has fewer than ten."""
MOST_YAML = 1 << 20
"""Bytes: a hundred times a hyperparameter file, or the metadata of a model card."""
_MOST_YAML_VALUES = 1 << 16
_JSON_MARKS = (b",", b"[", b"{")
_YAML_MARKS = (b",", b"[", b"{", b":", b"\n", b"- ", b"? ")


def json_value(data: bytes, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a JSON document in UTF-8; `pairs` makes the objects.

    Refused for too many values, too many levels, and a file in another one's place; ValueError for what is no JSON.
    """
    check_real(data[:512])
    check_count(data, _JSON_MARKS, MOST_VALUES)
    try:
        value = json.loads(data.decode(), object_pairs_hook=pairs)
    except RecursionError as error:
        raise Refused("is nested too deeply") from error
    _check_depth(value)
    return value


def yaml_value(data: bytes) -> Any:
    """The value of a YAML document without anchors, which could stand for more than memory holds.

    Refused for these, and as for `json_value`; yaml.YAMLError for what is no YAML.
    """
    import yaml

    if len(data) > MOST_YAML:
        raise Refused(f"has {len(data):,} bytes, more than the {MOST_YAML:,} that are read")
    check_real(data[:512])
    check_count(data, _YAML_MARKS, _MOST_YAML_VALUES)
    _check_brackets(data)
    text = data.decode("utf-8-sig")
    try:
        if any(getattr(event, "anchor", None) is not None for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise Refused("has anchors or aliases (& and *), which are not read", hint="Write the values out.")
        value = yaml.safe_load(text)
    except RecursionError as error:
        raise Refused("is nested too deeply") from error
    except Refused:
        raise
    except (ValueError, OverflowError) as error:  # PyYAML makes dates and numbers, and lets Python's errors through
        raise Refused(f"has a value that cannot be read: {error}", hint="Correct it, or put it in quotes.") from error
    _check_depth(value)
    return value


def check_count(data: bytes, marks: tuple[bytes, ...], most: int) -> None:
    """Refused if there are more of `marks` than `most`."""
    if sum(map(data.count, marks)) > most:
        raise Refused(f"has more than {most:,} values")


def _check_brackets(data: bytes) -> None:
    """Refused for many open brackets: PyYAML's time grows with their square."""
    depth = 0
    for found in re.finditer(rb"[\[{]|[\]}]", data):
        depth += 1 if found[0] in (b"[", b"{") else -1
        if depth > MOST_DEPTH:
            raise Refused("is nested too deeply")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH):
        held = (each for each in level if isinstance(each, dict | list))
        level = [child for each in held for child in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return
    raise Refused("is nested too deeply")
