"""How `fetch`, `pull`, `clone` and `push` tell what travelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memit_vc.progress import count, size_text

if TYPE_CHECKING:
    from memit_vc.porcelain.sharing.fetch import Fetched

__all__ = ["render_fetched"]


def render_fetched(fetched: Fetched) -> None:
    """What came, and the refs that moved."""
    if not fetched.commits and not fetched.objects:
        click.echo(f"everything from {fetched.url} is here already")
    else:
        came = f"{count(fetched.commits, 'commit')}, {count(fetched.objects, 'object')}"
        click.echo(f"from {fetched.url}: {came}, {size_text(fetched.bytes)}")
    for moved in fetched.moved:
        name = moved.name.partition("/")[2]
        if moved.name.startswith("heads/"):
            continue
        if moved.after is None:
            click.echo(f"  {name} is gone there")
        else:
            click.echo(f"  {name}: {'new' if moved.before is None else moved.before[:10]} → {moved.after[:10]}")
