"""The form of what was measured: of the rows of `evaluations`, and of the scores in a commit's record."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from memit_vc.objects import is_sha256
from memit_vc.objects.commit_record import HANDED_ON

_Is = Callable[[object], bool]


def check_measured(kind: str, value: Any) -> Any:
    """The value of a row. ValueError if it has another form than rows of its kind."""
    if not is_measured(kind, value):
        raise ValueError(f"its record has not the form of kind {kind!r}")
    return value


def is_measured(kind: str, value: Any) -> bool:
    """Whether a value has the form of rows of its kind."""
    return kind not in _KINDS or _KINDS[kind](value)


def are_scores(scores: object) -> bool:
    """As `Batch.evaluations` writes them."""
    return _has(scores, {"before": _is_side, "after": _is_side, "why": are_explanations})


def are_handed_on(scores: object) -> bool:
    """As `scores_at_commit.handed_on` writes them."""
    return _has(scores, {"before": _are_by_fact, "after": _are_by_fact})


def _are_recorded(scores: object) -> bool:
    """As `are_scores`. Where nothing was measured, a side is empty; older versions wrote no errors and explanations."""

    def is_side(side: object) -> bool:
        return side == {} or (isinstance(side, dict) and _is_side({"error": {}, **side}))

    return isinstance(scores, dict) and _has(
        {"why": {}, **scores}, {"before": is_side, "after": is_side, "why": are_explanations}
    )


def are_explanations(why: object) -> bool:
    """As `numerics.scores.explain.explained` writes them."""
    return isinstance(why, dict) and all(
        is_sha256(fact)
        and isinstance(each, dict)
        and each.get("sink", True) is True
        and _has({name: value for name, value in each.items() if name != "sink"}, _EXPLANATION)
        for fact, each in why.items()
    )


def _is_side(side: object) -> bool:
    """As `Batch.evaluations` writes a `Measured`."""
    return _has(side, _SIDE)


def _has(record: object, form: Mapping[str, _Is]) -> bool:
    """Whether a record has exactly the fields of a form, each with a value of its kind."""
    return isinstance(record, dict) and record.keys() == form.keys() and all(form[k](v) for k, v in record.items())


def _are_by_fact(facts: object) -> bool:
    return isinstance(facts, dict) and all(is_sha256(fact) and _are_numbers(each) for fact, each in facts.items())


def _are_numbers(scores: object) -> bool:
    """By name; None for what could not be measured."""
    return isinstance(scores, dict) and all(map(_is_number, scores.values()))


def _is_number(value: object) -> bool:
    return value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    )


def _is_perplexity(value: object) -> bool:
    return value is not None and _is_number(value)


def _are_tokens(value: object) -> bool:
    return isinstance(value, list) and all(type(token) is int for token in value)


_SIDE: Mapping[str, _Is] = {
    "facts": _are_by_fact,
    "total": _are_numbers,
    "error": _are_numbers,
    "perplexity": _is_number,
    "probe": lambda probe: isinstance(probe, str),
}
_EXPLANATION: Mapping[str, _Is] = {
    "leverage": _are_numbers,
    "left": _is_number,
    "agreement": lambda figures: figures is None or _are_numbers(figures),
    "loss": _is_number,
}
_KINDS: Mapping[str, _Is] = {
    "commit": _are_recorded,
    HANDED_ON: are_handed_on,
    "fact": _are_numbers,
    "perplexity": _is_perplexity,
    "answers": _are_tokens,
    "asked": lambda value: isinstance(value, bool),
}
"""Rows of other kinds are read by what keeps them; those of kind `tensors` have a digest."""
