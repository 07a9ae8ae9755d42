from __future__ import annotations

from pathlib import Path

import click

from memit_vc.cli.io import IO, verb
from memit_vc.errors import UsageError
from memit_vc.progress import count


@verb(name="checkout", example="memitvc checkout v1.0 -o model\nmemitvc checkout HEAD --in-place model")
@click.argument("revision", default="HEAD")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The new directory.")
@click.option(
    "--in-place",
    type=click.Path(path_type=Path),
    help="Switch this earlier checkout to REVISION, and bring back missing files.",
)
def command(io: IO, revision: str, output: Path | None, in_place: Path | None) -> None:
    """Write the model of REVISION (default HEAD) as a directory that plain transformers loads.

    Only files with editable tensors are written; the others are links into the repository. The first checkout also
    splits the base: it writes the tensors that edits can touch into separate files in the repository.
    """
    from memit_vc.porcelain.output.checkout import checkout
    from memit_vc.store.fresh import refuse_inside_repository

    target = output or in_place
    if target is None or (output and in_place):
        raise click.UsageError("give either -o DIR for a new directory, or --in-place DIR for an earlier checkout")
    if in_place and not in_place.is_dir():
        raise UsageError(f"{in_place}: there is no such checkout", hint=f"Make a new one: -o {in_place}")
    refuse_inside_repository(target)
    with io.repository() as repository, io.progress() as progress:
        made = checkout(repository, revision, target, replace=output is None, progress=progress)
    for note in made.notes:
        io.warn(note)

    def render() -> None:
        io.line(f"{made.directory}: state {made.state[:10]} of commit {made.commit[:10]}")
        # all that some state edits, also where this one leaves them as they are
        tensors = count(len(made.tensors), "editable tensor")
        click.echo(f"{tensors}, {made.hot_bytes / 1e6:.1f} MB written; the rest is linked")

    io.emit(made, render)
