from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import moved_lines


@verb(name="redo", example="memitvc redo")
def command(io: IO) -> None:
    """Take back the last undo: branches, tags, HEAD and remote-tracking branches go forward by one operation. You can
    redo as often as you typed `memitvc undo`, until another operation follows.
    """
    with io.repository() as repository:
        made = repository.redo()

    def render() -> None:
        io.line(made.description)
        for line in moved_lines(made):
            click.echo(f"  {line}")

    io.emit(made, render)
