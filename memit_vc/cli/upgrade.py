from __future__ import annotations

from pathlib import Path

import click

from memit_vc.cli.io import IO, verb


@verb(name="upgrade", example="memitvc upgrade")
def command(io: IO) -> None:
    """Migrate the repository's database to the schema of this version of memit-vc, after a backup."""
    from memit_vc.repository import Repository

    before, after, backup = Repository.upgrade(Path())

    def render() -> None:
        if before == after:
            click.echo(f"nothing to do: the database is at revision {after}")
            return
        click.echo(f"upgraded from revision {before} to {after}")
        if backup is not None:
            io.note(f"backup: {backup}")

    io.emit({"before": before, "after": after, "backup": backup}, render)
