"""A report as one self-contained page. Everything in it that others wrote is escaped, and only our script may run."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memit_vc.foreign.text import one_line
from memit_vc.objects.measures import LABELS, number
from memit_vc.page import charts, graph
from memit_vc.page.block import block
from memit_vc.page.data import FactRow, Report
from memit_vc.progress import count

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
GENERATOR = "memit-vc report"
BATCHES = 8
"""Curves in the chart; the table below it and the block of data have more."""
TABLES = 100
"""Commits with a table of all scores; those of older ones are in the block of data."""
NOTABLE = 12
"""Facts that the summary names one by one."""


def render(report: Report) -> str:
    """The page, as it is written to a file."""
    return _page("report.html", report, source("page.css"), source("page.js"))[0]


def render_live(report: Report, *, operation: int, revisions: Sequence[str]) -> tuple[str, str]:
    """The page as a server shows it, with what only a server can do, and its policy.

    `operation` is the newest one; `revisions` are proposed where the model is asked.
    """
    style, script = (f"{source(f'page.{kind}')}\n{source(f'live.{kind}')}" for kind in ("css", "js"))
    live = {"operation": operation, "revisions": list(dict.fromkeys(revisions))}
    return _page("live.html", report, style, script, connect="connect-src 'self'; ", live=live)


def _page(
    template: str, report: Report, style: str, script: str, *, connect: str = "", **more: object
) -> tuple[str, str]:
    """The page and its policy."""
    style += f".lanes{{width:{graph.width([row.graph for row in report.commits])}px}}"
    policy = (
        f"default-src 'none'; style-src {_hashed(style)}; script-src {_hashed(script)}; img-src data:; {connect}"
        "base-uri 'none'; form-action 'none'"
    )
    known = {**context(report), "policy": policy, "style": style, "script": script, "generator": GENERATOR, **more}
    return environment().get_template(template).render(**known), policy


def environment() -> Environment:
    """The templates, with escaping on. What a live page adds stands in templates of its own beside them."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"seen": one_line, "number": number, "short": lambda text: text[:10]}
    made.globals |= {"count": count, "finding": finding, "taking_out": taking_out, "asking": asking}
    return made


def finding(report: Report, suspects: Sequence[int], prompt: str, answer: str | None) -> str:
    """The command that tells which of some commits made an answer wrong. Without one answer to ask for, or if a
    terminal would not show the texts as they are, it is the one that measures in the middle.
    """
    first, middle, last = (report.commits[suspects[place]] for place in (0, (len(suspects) - 1) // 2, -1))
    if answer is None or any(one_line(text) != text for text in (prompt, answer)):
        return f"memitvc eval {middle.id[:10]}"
    asked = f"--prompt {shlex.quote(prompt)} --expect {shlex.quote(answer)}"
    return f"memitvc bisect {asked} --good {first.parents[0][:10]} --bad {last.id[:10]}"


def taking_out(report: Report, fact: FactRow) -> str:
    """The command that takes out one fact of its commit. One that was solved again leaves by being solved again."""
    commit = report.commits[fact.commit]
    solved = " --resolve" if commit.solved else ""
    return f"memitvc revert {commit.id[:10]}{solved} --fact {fact.id[:10]}"


def asking(prompt: str) -> str | None:
    """The command that asks the model again; None if a terminal would not show the prompt as it is, or reads it as "the
    prompts come from stdin".
    """
    return f"memitvc ask -n 5 -- {shlex.quote(prompt)}" if one_line(prompt) == prompt != "-" else None


def context(report: Report) -> dict[str, Any]:
    """What the templates of the sections need, whatever page they are in."""
    from markupsafe import Markup

    rows = [row.graph for row in report.commits]
    places = {commit: place for place, commit in enumerate(report.line)}
    labels = [report.commits[commit].id[:7] for commit in report.line]
    return {
        "report": report,
        "labels": LABELS,
        "notable": NOTABLE,
        "tables": TABLES,
        "lanes": [Markup(graph.cell(row, above)) for row, above in zip(rows, [None, *rows], strict=False)],  # noqa: S704
        "bars": [(Markup(svg), known) for svg, known in (charts.commit_bars(row.after) for row in report.commits)],  # noqa: S704
        "retention": Markup(_retention(report, places, labels)),  # noqa: S704
        "health": Markup(_health(report, places, labels)),  # noqa: S704
        "shown_curves": report.curves[-BATCHES:],
        "provenance": json.dumps(report.provenance, indent=1),  # ASCII: what would change the direction is written out
        "data": Markup(block(report)),  # noqa: S704
    }


def _retention(report: Report, places: Mapping[int, int], labels: list[str]) -> str:
    if not report.curves:
        return ""
    series = [
        charts.Series(
            _short(f"{report.commits[curve.commit].id[:7]} {report.commits[curve.commit].subject}"),
            [(places[commit], value) for commit, value, _ in curve.points],
        )
        for curve in report.curves[-BATCHES:]
    ]
    return charts.lines("Share of each batch that is answered, at each later commit", series, labels, low=0.0, high=1.0)


def _health(report: Report, places: Mapping[int, int], labels: list[str]) -> str:
    if not report.perplexity:
        return ""
    values = [value for _, value in report.perplexity]
    low, high = min(values), max(values)
    margin = (high - low or high or 1.0) * 0.15
    line = charts.Series("perplexity", [(places[commit], value) for commit, value in report.perplexity])
    return charts.lines(
        "Perplexity of the health text at each commit",
        [line],
        labels,
        low=max(0.0, low - margin),
        high=high + margin,
        rule=report.base_perplexity,
    )


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"


def source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    """As a content security policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
