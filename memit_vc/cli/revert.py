"""memitvc revert"""

from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.show_resolved import show_resolved


@verb(name="revert", short_help="Take commits out of the model, exactly.")
@click.argument("revisions", nargs=-1, required=True)
@click.option("--fact", metavar="ID|SUBJECT", help="Only this fact of the commits.")
@click.option(
    "--resolve",
    is_flag=True,
    help="Solve for the rest, so that it is what it would be had these facts never been in. Needs the model.",
)
@click.option("-m", "--message", help="Message of the new commit.")
def command(io: IO, revisions: tuple[str, ...], fact: str | None, resolve: bool, message: str | None) -> None:
    """Undo the change of state of REVISIONS, wherever they are in the history. No model is loaded; the weights that
    come out are, bit for bit, those of a history in which they never were. A revert can be reverted.

    Later commits were computed on top of what is taken out; --resolve also takes that influence out of them.
    """
    if resolve:
        from memit_vc.porcelain.resolve import resolve_revert

        with io.repository() as repository, io.progress() as progress:
            solved = resolve_revert(repository, revisions, fact=fact, message=message, progress=progress)
        show_resolved(io, solved)
        return
    from memit_vc.porcelain.revert import revert

    with io.repository() as repository:
        made = revert(repository, revisions, fact=fact, message=message)
        later = [(commit, repository.commit(commit).subject) for commit in made.later]

    def render() -> None:
        change = ", ".join(
            f"{n} column{'' if n == 1 else 's'} {way}"
            for n, way in ((made.removed, "out"), (made.restored, "back"))
            if n
        )
        click.echo(f"[{made.branch or 'detached HEAD'} {made.id[:10]}] {change}")
        if later:
            io.note("computed on top of what was taken out (their facts stay):")
            for commit, subject in later:
                io.note(f"  {commit[:10]} {subject}")

    io.emit({**vars(made), "reverted": list(made.reverted), "later": list(made.later)}, render)
