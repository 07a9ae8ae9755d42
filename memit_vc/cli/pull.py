from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import render_fetched
from memit_vc.cli.sides import require_option


@verb(name="pull", example="memitvc pull")
@click.argument("remote", required=False)
@click.argument("branch", required=False)
@require_option
def command(io: IO, remote: str | None, branch: str | None, require: tuple[str, ...]) -> None:
    """Fetch from REMOTE (default: origin, or the only remote), then move the current branch to where BRANCH is on
    REMOTE (default: the branch of the same name).

    The branch only moves forward. If both sides have new commits, the commits of REMOTE are fetched, the branch stays,
    and the exit code is 11. Then use `memitvc merge REMOTE/BRANCH`.
    """
    from memit_vc.porcelain.editing.policy import guard_of
    from memit_vc.porcelain.sharing.pull import pull

    with io.repository() as repository, io.progress() as progress:
        guard = guard_of(repository, require, progress=progress)
        made = pull(repository, remote, branch, guard=guard, progress=progress)
    for note in made.fetched.notes:
        io.note(note)

    def render() -> None:
        render_fetched(made.fetched)
        if made.before == made.after:
            click.echo(f"{made.branch} is up to date")
        else:
            click.echo(f"{made.branch}: {made.before[:10]} → {made.after[:10]}")

    io.emit(made, render)
