"""How the result of a `--resolve` is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from memit_vc.progress import count

if TYPE_CHECKING:
    from memit_vc.cli.io import IO
    from memit_vc.objects import JsonValue
    from memit_vc.porcelain.recomputing.resolve import Resolved

__all__ = ["show_resolved"]


def show_resolved(io: IO, made: Resolved, *, overlaps: Sequence[JsonValue] | None = None) -> None:
    """One line for people, all of it as JSON, with likely conflicts where somebody looked; notes on stderr."""
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
        io.note("stored as one dense patch: single facts of it can be taken out with `revert --resolve` only")
    io.outcome(
        made,
        ", ".join(parts),
        lambda: click.echo(f"snapping changed the update by {made.snapping:.1e}"),
        **({} if overlaps is None else {"overlaps": list(overlaps)}),
    )
