from __future__ import annotations

from typing import Any

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import show_resolved
from memit_vc.cli.sides import conflict_options
from memit_vc.progress import count


@verb(name="revert")
@click.argument("revisions", nargs=-1, required=True)
@click.option("--fact", metavar="ID|SUBJECT", help="Only this fact of the commits.")
@click.option(
    "--resolve",
    is_flag=True,
    help="Solve for the rest, so that it is what it would be had these facts never been in. Needs the model.",
)
@conflict_options
@click.option("-m", "--message", help="Message of the new commit.")
def command(io: IO, revisions: tuple[str, ...], resolve: bool, **options: Any) -> None:
    """Undo the change of state of REVISIONS (commits, or ranges A..B), wherever they are in the history, the newest
    first. No model is loaded; what they brought in goes, bit for bit, and what they took out comes back where nothing
    else has taken its place since. A revert can be reverted.

    A fact that comes back and contradicts a live one stops the revert with exit code 13.

    Later commits were computed on top of what is taken out; --resolve also takes that influence out of them, in a
    state that is the joint solution of its facts (`squash --resolve` makes any state one).
    """
    if resolve:
        from memit_vc.porcelain.recomputing.resolve import resolve_revert

        with io.repository() as repository, io.progress() as progress:
            solved = resolve_revert(repository, revisions, progress=progress, **options)
        show_resolved(io, solved)
        return
    from memit_vc.porcelain.sets.revert import revert

    with io.repository() as repository:
        made = revert(repository, revisions, **options)
        later = [(commit, repository.commit(commit).subject) for commit in made.later]

    def details() -> None:
        if later:
            io.note("computed on top of what was taken out (their facts stay):")
        for commit, subject in later:
            io.note(f"  {commit[:10]} {subject}")

    parts = ((made.removed, "out"), (made.added, "back"))
    io.outcome(made, ", ".join(f"{count(n, 'column')} {way}" for n, way in parts if n), details)
