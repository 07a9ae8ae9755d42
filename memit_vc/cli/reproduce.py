from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.progress import count


@verb(name="reproduce", example="memitvc reproduce HEAD~1")
@click.argument("revision", default="HEAD")
def command(io: IO, revision: str) -> int:
    """Compute the patch of REVISION again from its provenance (state, hyperparameters, templates, statistics). Compare
    it with the stored patch, byte by byte. Also compare the keys and targets, which --resolve uses. Nothing is stored.

    If the bytes differ, the exit code is 15. They may differ on other hardware or with other versions of the libraries.
    """
    from memit_vc.porcelain.recomputing.reproduce import reproduce

    with io.repository() as repository, io.progress() as progress:
        made = reproduce(repository, revision, progress=progress)

    def render() -> None:
        if made.equal:
            click.echo(f"{made.commit[:10]}: {count(made.columns, 'column')} computed again, every byte equal")
            if made.same_constraints is False:
                click.echo("its keys and targets (constraints), which --resolve uses, are not those that were computed")
            return
        click.echo(f"{made.commit[:10]}: computed again, with another result")
        for name, difference in made.differences.items():
            click.echo(f"  {name}: relative difference {difference:.2e}")
        if made.other_texts:
            io.note("this version of memit-vc asks the facts in other texts than the one that made it")
        io.note("`memitvc show --provenance` says on what it was computed; compare versions, device and threads")

    io.emit(made, render, largest=made.largest)
    return 0 if made.equal and made.same_constraints is not False else 15
