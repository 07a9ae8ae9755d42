from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.sides import change_text, conflict_options

if TYPE_CHECKING:
    from memit_vc.vcs.contradictions import OnConflict


@verb(name="import", example="memitvc import changes.memitvc")
@click.argument("file", type=click.Path(path_type=Path))
@conflict_options
def command(io: IO, file: Path, on_conflict: OnConflict) -> None:
    """Put the commits of FILE (from `export --patch`) on HEAD, one new commit for each. No model is loaded.

    FILE must belong to the same base. The whole file is checked before anything is stored. What is here already is left
    out.
    """
    from memit_vc.porcelain.sharing.import_patch import import_patch

    with io.repository() as repository, io.progress() as progress:
        made = import_patch(repository, file, on_conflict=on_conflict, progress=progress)

    def details() -> None:
        for commit in made.skipped:
            io.note(f"the change of {commit[:10]} is here already")

    if made.ids:
        io.outcome(made, change_text(made), details)
    else:
        io.emit(made, lambda: click.echo(f"everything in {file} is here already"))
