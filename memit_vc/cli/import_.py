"""memitvc import FILE"""

from __future__ import annotations

from pathlib import Path

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.sides import change_text, conflict_options


@verb(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@conflict_options
def command(io: IO, file: Path, on_conflict: str | None) -> None:
    """Put the commits of FILE (from `export --patch`) on HEAD, one new commit for each. No model is loaded.

    FILE must belong to the same base. It is checked whole before anything is stored; what is here already is left out.
    """
    from memit_vc.porcelain.sharing.import_patch import import_patch

    with io.repository() as repository, io.progress() as progress:
        made = import_patch(
            repository,
            file,
            on_conflict=on_conflict or "stop",  # type: ignore[arg-type]  # one of the flags' values
            progress=progress,
        )
    for note in made.notes:
        io.warn(note)

    def render() -> None:
        where = made.branch or "detached HEAD"
        if not made.ids:
            click.echo(f"everything in {file} is here already")
            return
        click.echo(f"[{where} {made.ids[-1][:10]}] {change_text(made.added, made.removed)}")
        for commit in made.skipped:
            io.note(f"{commit[:10]} is here already")

    io.emit(
        {
            **vars(made),
            "ids": list(made.ids),
            "imported": list(made.imported),
            "skipped": list(made.skipped),
            "contradictions": [each.to_json() for each in made.contradictions],
            "notes": list(made.notes),
        },
        render,
    )
