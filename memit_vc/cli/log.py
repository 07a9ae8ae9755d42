from __future__ import annotations

import re
from collections.abc import Iterator

import click

from memit_vc.cli.io import IO, Verb, verb
from memit_vc.foreign.text import one_line
from memit_vc.vcs.graphlines import graph_rows

_COLOURS = ("red", "green", "blue", "magenta", "cyan", "yellow")


def _coloured(lanes: str) -> str:
    """Each lane of a graph in a colour of its own, what joins two in that of the left one."""
    return "".join(
        sign if sign in " *" else click.style(sign, fg=_COLOURS[place // 2 % len(_COLOURS)])
        for place, sign in enumerate(lanes)
    )


class _Log(Verb):
    """Takes -3 for -n 3, as git does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        short = [f"-n{arg[1:]}" if re.fullmatch(r"-[0-9]+", arg) else arg for arg in args[:end]]
        return super().parse_args(ctx, [*short, *args[end:]])


@verb(name="log", example="memitvc log --graph --all\nmemitvc log -3 v1.0..HEAD", cls=_Log)
@click.argument("revisions", nargs=-1, metavar="[REV | A..B]...")
@click.option("--graph", is_flag=True, help="Draw branches and merges.")
@click.option("--oneline", is_flag=True, help="Show one line for each commit.")
@click.option("--all", "everything", is_flag=True, help="Show the commits of every branch and tag.")
@click.option(
    "-n", "--max-count", "limit", type=click.IntRange(min=1), help="Show at most this many commits. -3 means -n 3."
)
def command(
    io: IO, revisions: tuple[str, ...], graph: bool, oneline: bool, everything: bool, limit: int | None
) -> None:
    """Show the commits that REV (default HEAD) reaches, newest first. A..B shows the commits that B reaches and A does
    not reach.
    """
    from memit_vc.porcelain.history.log import LogEntry, log

    with io.repository() as repository:
        entries = log(repository, revisions, everything=everything, limit=limit)

    def lines(entry: LogEntry) -> Iterator[str]:
        refs = f" ({', '.join(entry.refs)})" if entry.refs else ""
        name = click.style(entry.id[:10], fg="yellow") + click.style(refs, fg="cyan")
        change = "".join([f"  +{entry.added}" if entry.added else "", f" −{entry.removed}" if entry.removed else ""])
        if oneline or graph:
            yield f"{name} {entry.commit.subject}{change}"
            return
        yield f"commit {name}"
        if entry.commit.author:
            yield f"Author: {one_line(entry.commit.author)}"
            yield f"Date:   {one_line(entry.commit.time)}"
        yield ""
        yield from (f"    {line}" for line in entry.commit.message.splitlines())
        if change:
            yield f"    columns:{change}"
        yield ""

    def render() -> None:
        if graph:
            for row, entry in zip(graph_rows((e.id, e.parents) for e in entries), entries, strict=True):
                click.echo(f"{_coloured(row.node)}{next(lines(entry))}")
                for edge in row.edges:
                    click.echo(_coloured(edge))
        else:
            for entry in entries:
                click.echo("\n".join(lines(entry)))

    io.emit(entries, render)
