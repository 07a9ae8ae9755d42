from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from memit_vc.cli.io import IO, verb
from memit_vc.errors import UsageError

if TYPE_CHECKING:
    from memit_vc.porcelain.sets.branch import Branch


@verb(name="branch", example="memitvc branch trial HEAD~2\nmemitvc branch -d trial")
@click.argument("name", required=False)
@click.argument("other", required=False, metavar="[REV]")
@click.option("-d", "--delete", is_flag=True, help="Delete branch NAME.")
@click.option("-D", "force", is_flag=True, help="Delete branch NAME even if nothing else has its commits.")
@click.option("-m", "--move", is_flag=True, help="Rename: -m NEW (the current branch) or -m OLD NEW.")
def command(io: IO, name: str | None, other: str | None, delete: bool, force: bool, move: bool) -> None:
    """List the branches, or make branch NAME at REV (default HEAD). HEAD stays: see `memitvc switch`."""
    from memit_vc.porcelain.sets.branch import branches, create_branch, delete_branch, rename_branch

    if (delete or force or move) and name is None:
        raise UsageError("no branch is named", hint="Give its name; `memitvc branch` lists the branches.")
    if (delete or force) and (move or other is not None):
        raise UsageError("-d takes one name and no other option", hint="Type: memitvc branch -d NAME")
    with io.repository() as repository:
        if name is None:
            listed = branches(repository)
            io.emit(listed, lambda: _render(listed))
            return
        if delete or force:
            made = delete_branch(repository, name, force=force)
        elif move:
            made = rename_branch(repository, name if other else None, other or name)
        else:
            made = create_branch(repository, name, other or "HEAD")
    state = "deleted: it was" if delete or force else "is"
    io.emit(made, lambda: click.echo(f"branch {made.name} {state} at {made.commit[:10]} {made.subject}"))


def _render(listed: Sequence[Branch]) -> None:
    for branch in listed:
        click.echo(f"{'*' if branch.current else ' '} {branch.name}  {branch.commit[:10]} {branch.subject}")
