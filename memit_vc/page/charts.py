"""Curves and bars as plain SVG. They need no script, so nothing has to be allowed to run, and a card can have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from memit_vc.foreign.text import one_line
from memit_vc.objects.measures import number

WIDE, HIGH = 820, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 250, 14, 42
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2328}.page{fill:#fff}.was{fill:#8a94a0}.is{fill:#0072b2}"
    ".rule{stroke:#d0d7de}@media(prefers-color-scheme:dark){text{fill:#e6e9ed}.page{fill:#14181d}.was{fill:#77818c}"
    ".is{fill:#4fa8e0}.rule{stroke:#3b434c}}"
)
"""Of a picture that stands alone."""
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4")


@dataclass(frozen=True)
class Series:
    """A line of a chart: (place on the axis, value)."""

    name: str
    points: Sequence[tuple[int, float]]


def lines(
    title: str,
    series: Sequence[Series],
    labels: Sequence[str],
    *,
    low: float,
    high: float,
    rule: float | None = None,
    digits: int = 2,
) -> str:
    """A chart with `labels` on its axis; `rule` is a value to compare with. Lines differ in colour and in dashes."""
    span = (high - low) or 1.0
    most = max(len(labels) - 1, 1)

    def x(place: float) -> float:
        return LEFT + (WIDE - LEFT - RIGHT) * place / most

    def y(value: float) -> float:
        return HIGH - BOTTOM - (HIGH - TOP - BOTTOM) * (value - low) / span

    parts = [f'<svg class="chart" viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{written(title)}">']
    for step in range(5):
        value = low + span * step / 4
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{number(value, digits)}</text>'
        )
    parts += [
        f'<text x="{x(place):.1f}" y="{HIGH - BOTTOM + 18}" text-anchor="middle">{written(labels[place])}</text>'
        for place in _ticks(len(labels))
    ]
    if rule is not None:
        parts.append(
            f'<line class="base" x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{y(rule):.1f}" y2="{y(rule):.1f}"/>'
            f'<text x="{WIDE - RIGHT + 6}" y="{y(rule) + 4:.1f}">the base</text>'
        )
    taken: list[float] = [] if rule is None else [y(rule)]
    for place, each in enumerate(series):
        if not each.points:
            continue
        where = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in each.points)
        dash = _DASHES[place % len(_DASHES)]
        drawn = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<polyline class="curve g{place % 6}" points="{where}"{drawn}/>')
        if len(each.points) <= 60:  # more would be a band
            parts += [
                f'<circle class="dot g{place % 6}" cx="{x(at):.1f}" cy="{y(value):.1f}" r="3.5"/>'
                for at, value in each.points
            ]
        at = _free(y(each.points[-1][1]), taken)
        taken.append(at)
        parts.append(f'<text x="{WIDE - RIGHT + 6}" y="{at + 4:.1f}">{written(each.name)}</text>')
    parts.append("</svg>")
    return "".join(parts)


def _ticks(count: int) -> list[int]:
    step = max(1, -(-count // 8))
    return list(range(0, count, step))


def _free(wanted: float, taken: Sequence[float]) -> float:
    """The nearest place for a label that no other label has."""
    for distance in range(0, HIGH, 7):
        for place in (wanted + distance, wanted - distance):
            if TOP <= place <= HIGH - BOTTOM + 4 and all(abs(place - other) >= 14 for other in taken):
                return place
    return wanted


def bars(values: Sequence[tuple[str, float | None]]) -> str:
    """Small bars, one for each value in [0, 1]. The numbers stand beside them as text."""
    parts = [f'<svg class="bars" width="{14 * len(values)}" height="20" aria-hidden="true">']
    for place, (_, value) in enumerate(values):
        if value is not None:
            high = max(1.0, 18 * min(value, 1.0))
            parts.append(
                f'<rect class="full" x="{14 * place}" y="1" width="10" height="18"/>'
                f'<rect class="bar" x="{14 * place}" y="{19 - high:g}" width="10" height="{high:g}"/>'
            )
    return "".join([*parts, "</svg>"])


def score_picture(rows: Sequence[tuple[str, str, str]]) -> str:
    """(name, before, after) of a card as a picture: the numbers, and bars for those between 0 and 1."""
    wide, step = 640, 30
    high = 34 + step * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" '
        f'role="img" aria-label="Scores before and after"><style>{STYLE}</style>'
        f'<rect class="page" width="{wide}" height="{high}"/>'
        '<text x="400" y="20" text-anchor="end">before</text><text x="460" y="20" text-anchor="end">after</text>'
    ]
    for place, (name, before, after) in enumerate(rows):
        y = 28 + step * place
        parts.append(
            f'<line class="rule" x1="8" x2="{wide - 8}" y1="{y}" y2="{y}"/>'
            f'<text x="8" y="{y + 20}">{written(name)}</text>'
            f'<text x="400" y="{y + 20}" text-anchor="end">{escape(before)}</text>'
            f'<text x="460" y="{y + 20}" text-anchor="end">{escape(after)}</text>'
        )
        for at, (cls, text) in enumerate((("was", before), ("is", after))):
            share = _share(text)
            if share is not None:
                parts.append(
                    f'<rect class="{cls}" x="480" y="{y + 6 + 10 * at}" width="{max(1.0, 150 * share):g}" height="8"/>'
                )
    return "".join([*parts, "</svg>\n"])


def _share(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def commit_bars(scores: Mapping[str, float | None]) -> tuple[str, list[tuple[str, float]]]:
    """The bars of a commit in the history, and (short name, value) of those that were measured."""
    names = {"rewrite_acc": "learnt", "ES": "ES", "PS": "PS", "NS": "NS"}
    known = [(text, value) for name, text in names.items() if (value := scores.get(name)) is not None]
    return (bars(known) if known else "", known)


_NO_XML = str.maketrans({character: repr(character)[1:-1] for character in "\ufffe\uffff"})
"""What may be in a text, but not in an SVG."""


def written(text: str) -> str:
    """A text of others, between tags or in an attribute of an SVG."""
    return escape(one_line(text).translate(_NO_XML))
