"""How `fetch`, `pull`, `clone` and `push` tell what travelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memit_vc.objects import JsonValue
from memit_vc.progress import count, size_text

if TYPE_CHECKING:
    from memit_vc.porcelain.sharing.fetch import Fetched

__all__ = ["fetched_json", "render_fetched"]


def render_fetched(fetched: Fetched) -> None:
    """What came, and the refs that moved."""
    if not fetched.commits and not fetched.objects:
        click.echo(f"everything from {fetched.url} is here already")
    else:
        came = f"{count(fetched.commits, 'commit')}, {count(fetched.objects, 'object')}"
        click.echo(f"from {fetched.url}: {came}, {size_text(fetched.bytes)}")
    for ref, old, new in fetched.moved:
        name = ref.partition("/")[2]
        if ref.startswith("heads/"):
            continue
        if new is None:
            click.echo(f"  {name} is gone there")
        else:
            click.echo(f"  {name}: {'new' if old is None else old[:10]} → {new[:10]}")


def fetched_json(fetched: Fetched) -> dict[str, JsonValue]:
    return {
        **vars(fetched),
        "moved": [{"name": name, "before": old, "after": new} for name, old, new in fetched.moved],
        "notes": list(fetched.notes),
    }
