"""A cell of a CSV file as a value: lists as JSON or as Python writes them, and cells that stand for nothing."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from memit_vc.edits.words import words

LISTS = words(
    """rephrase_prompt paraphrase_prompts neighborhood_prompts locality requested_rewrite rephrase answers portability
    para_question clean_paraphrase_prompts generation_prompts phrasings"""
)
"""Columns whose cell may hold a list or an object; any other cell there is one text."""
_ANSWERS = words("target_new ground_truth target_true locality_ground_truth loc_ans")
"""Columns of answers, where pandas wrote MEMIT's objects or lists of equally good answers. All else there is text."""
_NOTHING = frozenset(("nan", "NaN", "<NA>", "NaT"))
_NONE = frozenset(("None", "null", "NULL"))
_TEXTS = frozenset(("prompt", "target_new", "requested_rewrite"))
_WHOLE = re.compile(r"-?\d+\.0")


def value_of(column: str, text: str, notes: list[str], *, own: bool, loads: Any = json.loads) -> Any:
    """The value, None where it stands for nothing. ValueError for a list that cannot be read.

    In a table that memit-vc wrote itself (`own`) every cell stands for what it says.
    """
    bare = text.strip()
    if not own and (bare in _NOTHING or (bare in _NONE and column not in _TEXTS)):
        notes.append(f'"{column}" is {bare}, and was taken as empty')
        return None
    if not own and column in ("target_new", "ground_truth", "subject") and _WHOLE.fullmatch(bare):
        notes.append(f'"{column}" is {bare}: pandas writes whole numbers so beside empty cells')
    answer = column in _ANSWERS and not own
    if (column not in LISTS and not answer) or not bare.startswith(("[", "{")):
        return text
    try:
        value = _read(column, bare, loads)
    except ValueError:
        if answer:
            return text
        raise
    return text if answer and isinstance(value, dict) and "str" not in value else value


def _read(column: str, bare: str, loads: Any) -> Any:
    """A list or an object, as JSON or as Python writes it. ValueError."""
    try:
        return loads(bare)
    except json.JSONDecodeError:
        pass  # it may be as Python writes it; JSON with a key twice, say, is refused as elsewhere
    except RecursionError as error:
        raise ValueError(f'"{column}" begins like a list, but cannot be read as one') from error
    try:
        tree = ast.parse(bare, mode="eval")
        _once(tree)
        return _plain(ast.literal_eval(tree))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f'"{column}" begins like a list, but cannot be read as one') from error


_BITS = 1024
"""Of a whole number. Python refuses to write one of thousands of digits, in a message, too."""


def _once(tree: ast.AST) -> None:
    """ValueError for a key that occurs twice in one object: the last would win in silence."""
    for node in ast.walk(tree):
        keys = [each.value for each in getattr(node, "keys", ()) if isinstance(each, ast.Constant)]
        if len(set(keys)) != len(keys):
            raise ValueError("a key occurs twice")


def _plain(value: Any) -> Any:
    """What JSON can hold; ValueError for sets, bytes and the like."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(each) for key, each in value.items()}
    if value is None or isinstance(value, str | float) or (isinstance(value, int) and value.bit_length() <= _BITS):
        return value
    raise ValueError("not a value of JSON")
