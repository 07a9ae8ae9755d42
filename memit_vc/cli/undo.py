from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import moved_lines


@verb(name="undo", example="memitvc undo")
def command(io: IO) -> None:
    """Put branches, tags, HEAD and remote-tracking branches back to where they were before the last operation. A fetch
    and a push are operations, too. Each further undo goes back by one more operation. `memitvc redo` takes an undo
    back.
    """
    with io.repository() as repository:
        made = repository.undo()

    def render() -> None:
        io.line(made.description)
        for line in moved_lines(made):
            click.echo(f"  {line}")
        io.note("`memitvc undo` again goes further back; `memitvc redo` takes this undo back")

    io.emit(made, render)
