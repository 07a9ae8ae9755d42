from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.progress import count


@verb(name="rebase", example="memitvc rebase main")
@click.argument("onto")
@click.option("--no-scores", is_flag=True, help="Do not measure scores before and after each batch.")
def command(io: IO, onto: str, no_scores: bool) -> None:
    """Take the commits that are in HEAD but not in ONTO, and put them on top of ONTO. Each batch is computed again
    there, with its own settings; reverts are replayed. The branch moves at the end, in one step.

    `merge` joins two branches without computing anything. Use `rebase` if the batches should take the other side's
    facts into account.
    """
    from memit_vc.porcelain.recomputing.rebase import rebase

    with io.repository() as repository:
        with io.progress() as progress:
            made = rebase(repository, onto, scores=not no_scores, progress=progress)
        subjects = {new: repository.commit(new).subject for _, new in made.commits}

    def details() -> None:
        for old, new in made.commits:
            click.echo(f"  {old[:10]} → {new[:10]} {subjects[new]}")
        for old in made.skipped:
            io.note(f"  {old[:10]} has nothing left to change there")

    io.outcome(
        made,
        "fast-forward" if made.fast_forward else f"{count(len(made.commits), 'commit')} onto {made.onto[:10]}",
        details,
    )
