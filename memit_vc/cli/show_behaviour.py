"""How `diff --behaviour` is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from memit_vc.cli.io import IO
    from memit_vc.porcelain.asking.behaviour import Behaviour, Sides

__all__ = ["show_behaviour"]


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
