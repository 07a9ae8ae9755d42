"""All data of a report as JSON inside its page: a page is mailed, so what there are thousands of are lists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from memit_vc.objects import JsonValue
from memit_vc.objects.measures import LABELS, OF_FACT
from memit_vc.page.data import Case, CommitRow, FactRow, Report

_FACT = ("id", "subject", "prompt", "target", "old", "paraphrases", "neighbours", "commit", "points", "why")
_MORE: Mapping[str, JsonValue] = {"generation": [], "gone": None, "broke": {}, "status": "live"}
"""Fields of a fact that most have alike, behind the others; from where only these values follow, a row ends."""
_COMMIT = ("message", "author", "time", "kind", "refs", "facts", "gone", "lost", "solved")
_SIDES = ("before", "after", "errors")
_WHY = ("left", "loss", "leverage", "agreement")
_ID = 16
"""Characters of an id: any command takes them."""


class _Texts:
    """Texts about subjects, each stored once: as its parts between the places where the subject stands. Facts of one
    relation have the same parts.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, ...], int] = {}

    def number(self, text: str, subject: str) -> int:
        parts = tuple(text.split(subject)) if subject else (text,)
        return self._numbers.setdefault(parts, len(self._numbers))

    def table(self) -> JsonValue:
        return [list(parts) for parts in self._numbers]


def block(report: Report) -> str:
    """JSON that can stand inside of a script element: no `<` ends it, whatever a text holds."""
    text = json.dumps(_record(report), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _record(report: Report) -> JsonValue:
    every = [point.values for fact in report.facts for point in fact.points]
    kept = [place for place in range(len(OF_FACT)) if any(values[place] is not None for values in every)]
    others = ("base", "base_id", "revision", "branch", "state", "line", "base_perplexity")
    totals = [
        name
        for name in (*LABELS, "nll")
        if any(getattr(row, side).get(name) is not None for row in report.commits for side in _SIDES)
    ]
    numbers = {row.id: number for number, row in enumerate(report.commits)}
    texts = _Texts()
    facts: list[JsonValue] = [_fact(fact, kept, texts) for fact in report.facts]
    return {
        "format": 1,
        **{name: getattr(report, name) for name in others},
        "perplexity": [[commit, round(value, 4)] for commit, value in report.perplexity],
        "labels": dict(LABELS),
        "totals": totals,
        "commits": [_commit(row, totals, numbers) for row in report.commits],
        "measures": [OF_FACT[place] for place in kept],
        "why_fields": list(_WHY),
        "fact_fields": [*_FACT, *_MORE],
        "fact_defaults": dict(_MORE),
        "texts": texts.table(),
        "facts": facts,
        "curves": [[curve.commit, [list(point) for point in curve.points]] for curve in report.curves],
        "comparisons": [
            {
                "older": each.older,
                "newer": each.newer,
                **{name: _cases(getattr(each, name)) for name in ("regressed", "failing")},
                "fixed": len(each.fixed),
                "unchanged": each.unchanged,
            }
            for each in report.comparisons
        ],
        "weights": asdict(report.weights),
        "interference": asdict(report.interference),
        "provenance": dict(report.provenance),
    }


def _commit(row: CommitRow, totals: Sequence[str], numbers: Mapping[str, int]) -> JsonValue:
    """Without what is empty. `parents` count the commits; `before`, `after` and `errors` are in order of `totals`."""
    found: dict[str, JsonValue] = {"id": row.id, "state": row.state[:_ID]}
    found |= {name: value for name in _COMMIT if (value := getattr(row, name))}
    found["parents"] = [numbers[parent] for parent in row.parents]
    for side in _SIDES:
        values = [_plain(getattr(row, side).get(name)) for name in totals]
        if any(value is not None for value in values):
            found[side] = values
    return found


def _fact(fact: FactRow, kept: Sequence[int], texts: _Texts) -> JsonValue:
    """`points` are [commit, measures…]; a neighbour without an answer has the fact's old one. What is asked is the
    number of its text.
    """

    def asked(text: str) -> int:
        return texts.number(text, fact.subject)

    points: list[JsonValue] = [[each.commit, *(_plain(each.values[place]) for place in kept)] for each in fact.points]
    made: dict[str, JsonValue] = {
        "id": fact.id[:_ID],
        "prompt": asked(fact.prompt),
        "paraphrases": [asked(text) for text in fact.paraphrases],
        "neighbours": [
            [asked(text)] if answer == fact.old else [asked(text), answer] for text, answer in fact.neighbours
        ],
        "points": points,
        "why": None if fact.why is None else [_rounded(fact.why.get(name)) for name in _WHY],
        "broke": {what: list(suspects) for what, suspects in fact.broke.items()},
        "generation": [asked(text) for text in fact.generation],
    }
    row = [made[name] if name in made else getattr(fact, name) for name in (*_FACT, *_MORE)]
    usual = [*_MORE.values()]
    while usual and row[-1] == usual.pop():
        row.pop()
    return row


def _cases(cases: Sequence[Case]) -> JsonValue:
    """{what was asked: facts by number}; the values are in the facts' points."""
    found: dict[str, list[JsonValue]] = {}
    for case in cases:
        found.setdefault(case.what, []).append(case.fact)
    return dict(found)


def _rounded(value: JsonValue) -> JsonValue:
    """A number as the page shows it, and one more digit; of layers, the list of them."""
    if isinstance(value, Mapping):
        return [_rounded(each) for each in value.values()]
    return round(value, 3) if isinstance(value, float) else value


def _plain(value: float | None) -> JsonValue:
    """As `_rounded`, and 1 instead of 1.0: there are many."""
    if value is None:
        return None
    return int(value) if value == int(value) else round(value, 3)
