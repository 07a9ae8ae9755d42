from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import render_fetched


@verb(name="fetch", example="memitvc fetch")
@click.argument("remote", required=False)
def command(io: IO, remote: str | None) -> None:
    """Fetch the commits of REMOTE (default: origin, or the only remote). Each of the remote's branches becomes
    REMOTE/BRANCH here, for `log`, `diff` and `merge`.

    Only missing commits and objects are sent. They are checked, by hash and against the base, before anything is
    stored. If a fetch is interrupted, the next fetch continues the work.
    """
    from memit_vc.porcelain.sharing.fetch import fetch

    with io.repository() as repository, io.progress() as progress:
        made = fetch(repository, remote, progress=progress)
    for note in made.notes:
        io.note(note)
    io.emit(made, lambda: render_fetched(made))
