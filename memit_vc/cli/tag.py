from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.errors import UsageError


@verb(name="tag", example="memitvc tag v1.0")
@click.argument("name", required=False)
@click.argument("revision", required=False, metavar="[REV]")
@click.option("-d", "--delete", is_flag=True, help="Delete tag NAME.")
def command(io: IO, name: str | None, revision: str | None, delete: bool) -> None:
    """List the tags, or make tag NAME at REV (default HEAD)."""
    from memit_vc.porcelain.sets.tag import create_tag, delete_tag, tags

    if delete and (name is None or revision is not None):
        raise UsageError("-d takes the name of one tag", hint="Name one; `memitvc tag` lists the tags.")
    with io.repository() as repository:
        if name is None:
            found = tags(repository)
        else:
            found = [delete_tag(repository, name) if delete else create_tag(repository, name, revision or "HEAD")]

    def render() -> None:
        for tag in found:
            click.echo(f"{'deleted tag ' if delete else ''}{tag.name}  {tag.commit[:10]} {tag.subject}")

    io.emit(found if name is None else found[0], render)
