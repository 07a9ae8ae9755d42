from __future__ import annotations

from typing import Any

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import show_resolved
from memit_vc.cli.sides import conflict_options
from memit_vc.progress import count


@verb(name="revert", example='memitvc revert HEAD~1\nmemitvc revert HEAD~1 --fact "Eiffel Tower"')
@click.argument("revisions", nargs=-1, required=True)
@click.option("--fact", metavar="ID|SUBJECT", help="Revert only this fact of the commits.")
@click.option(
    "--resolve",
    is_flag=True,
    help="Solve the remaining live facts again, as if the reverted facts had never been committed. This repeats the "
    "closed formula, not the search. It loads the model.",
)
@conflict_options
@click.option("-m", "--message", help="Message of the new commit.")
def command(io: IO, revisions: tuple[str, ...], resolve: bool, **options: Any) -> None:
    """Undo REVISIONS (commits, or ranges A..B) anywhere in the history, newest first. Without --resolve, facts that
    these commits added are removed exactly. Facts that these commits removed come back. Only --resolve loads a model. A
    revert can be reverted.

    If a later commit replaced an answer of a reverted commit, the later answer stays. If a fact that comes back
    contradicts another live fact, the revert stops with exit code 13, unless --ours, --theirs or --keep-both is given.

    Later commits were computed on weights that held the reverted edits. Without these edits, the later patches would
    be different. --resolve corrects this (https://github.com/memit-vc/memit-vc/blob/main/docs/glossary.md).
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
            io.note("these later commits were computed on top of it (their facts stay):")
        for commit, subject in later:
            io.note(f"  {commit[:10]} {subject}")

    parts = ((made.removed, "out"), (made.added, "back"))
    io.outcome(made, ", ".join(f"{count(n, 'column')} {way}" for n, way in parts if n), details)
