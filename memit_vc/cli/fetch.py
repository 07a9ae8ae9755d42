from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import render_fetched


@verb(name="fetch")
@click.argument("remote", required=False)
def command(io: IO, remote: str | None) -> None:
    """Fetch from REMOTE (default: origin, or the only one there is). Its branches are then REMOTE/BRANCH, for `log`,
    `diff` and `merge`.

    Only what is missing travels. Everything is checked against its name and against the base before any of it is
    stored. A fetch that was cut off goes on where it was.
    """
    from memit_vc.porcelain.sharing.fetch import fetch

    with io.repository() as repository, io.progress() as progress:
        made = fetch(repository, remote, progress=progress)
    for note in made.notes:
        io.note(note)
    io.emit(made, lambda: render_fetched(made))
