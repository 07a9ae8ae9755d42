"""How results are written for people: facts and scores, re-solves, answers, operations, transfers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from memit_vc.foreign.text import one_line
from memit_vc.objects import Fact
from memit_vc.objects.measures import LABELS, number
from memit_vc.progress import count, size_text

if TYPE_CHECKING:
    from memit_vc.cli.io import IO
    from memit_vc.objects import JsonValue
    from memit_vc.porcelain.asking.behaviour import Behaviour, Sides
    from memit_vc.porcelain.recomputing.resolve import Resolved
    from memit_vc.porcelain.sharing.fetch import Fetched
    from memit_vc.store.records import OperationRow


def fact_line(fact: Fact) -> str:
    """prompt → target, with what it replaces."""
    was = f" (was: {fact.ground_truth})" if fact.ground_truth else ""
    return one_line(f"{fact.prompt} → {fact.target}{was}")


def score_rows(sides: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of a table of totals, one column per side; measures that no side has are left out."""
    return [
        [text, *(number(side.get(name)) for side in sides)]
        for name, text in LABELS.items()
        if any(side.get(name) is not None for side in sides)
    ]


def show_resolved(io: IO, made: Resolved, *, overlaps: Sequence[JsonValue] | None = None) -> None:
    """One line for people, all of it as JSON, with likely conflicts if somebody looked; notes on stderr."""
    parts = [
        f"{count(number, noun)} {what}"
        for number, noun, what in (
            (made.taken_out, "fact", "taken out"),
            (made.put_in, "fact", "solved in"),
            (made.columns_removed, "column", "replaced"),
        )
        if number
    ]
    if made.dense:
        io.note("stored as one dense patch: only `revert --resolve` can take single facts out of it")
    io.outcome(
        made,
        ", ".join(parts),
        lambda: click.echo(f"snapping changed the update by {made.snapping:.1e}"),
        **({} if overlaps is None else {"overlaps": list(overlaps)}),
    )


def show_behaviour(io: IO, found: Behaviour) -> None:
    """A table: each prompt with the probabilities of the new and the old target, and the greedy answers."""
    if not found.asked:
        click.echo("no fact differs; give prompts of your own with --prompts")
        return
    older, newer = found.older[:10], found.newer[:10]
    io.table(
        ["", "prompt", "new", "p(new)", "old", "p(old)", f"answer at {older}", f"answer at {newer}"],
        [
            [
                entry.kind,
                entry.prompt,
                entry.new or "",
                _sides(entry.p_new),
                entry.old or "",
                _sides(entry.p_old),
                *entry.answers,
            ]
            for entry in found.asked
        ],
    )


def _sides(pair: Sides | None) -> str:
    return "" if pair is None else f"{pair[0]:.3f} → {pair[1]:.3f}"


def moved_lines(operation: OperationRow) -> Iterator[str]:
    """ "main: 0123456789 → abcdef0123" for each ref that the operation moved."""
    for moved in operation.moved:
        name = moved.name.partition("/")[2] or moved.name
        yield f"{name}: {_place(moved.before)} → {_place(moved.after)}"


def _place(value: str | None) -> str:
    if value is None:
        return "absent"
    return value.removeprefix("heads/") if value.startswith("heads/") else value[:10]


def render_fetched(fetched: Fetched) -> None:
    """What came, and the refs that moved."""
    if not fetched.commits and not fetched.objects:
        click.echo(one_line(f"everything from {fetched.url} is here already"))
    else:
        came = f"{count(fetched.commits, 'commit')}, {count(fetched.objects, 'object')}"
        click.echo(one_line(f"from {fetched.url}: {came}, {size_text(fetched.bytes)}"))
    for moved in fetched.moved:
        name = moved.name.partition("/")[2]
        if moved.name.startswith("heads/"):
            continue
        if moved.after is None:
            click.echo(f"  {name} is gone there")
        else:
            click.echo(f"  {name}: {'new' if moved.before is None else moved.before[:10]} → {moved.after[:10]}")
