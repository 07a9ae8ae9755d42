from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import moved_lines
from memit_vc.foreign.text import one_line


@verb(name="log", example="memitvc op log -n 5")
@click.option("-n", "--max-count", "limit", type=click.IntRange(1, 2**63 - 1), help="At most this many operations.")
def log(io: IO, limit: int | None) -> None:
    """Show the operations, newest first: one for each command that changed a branch, a tag, HEAD or a remote-tracking
    branch (REMOTE/BRANCH).
    """
    with io.repository() as repository:
        found = repository.operations(limit)

    def render() -> None:
        for operation in found:
            undone = f" (undone by {operation.undone_by})" if operation.undone_by else ""
            number = click.style(f"{operation.id:>4}", fg="yellow")
            click.echo(f"{number}  {operation.time}  {operation.verb}: {one_line(operation.description)}{undone}")
            for line in moved_lines(operation):
                click.echo(f"        {line}")

    io.emit(found, render)


@verb(name="restore", example="memitvc op restore 12")
@click.argument("number", type=click.IntRange(1, 2**63 - 1))
def restore(io: IO, number: int) -> None:
    """Put branches, tags, HEAD and remote-tracking branches back to where they were after operation NUMBER. This is an
    operation, too: `memitvc undo` takes it back.
    """
    with io.repository() as repository:
        newest = repository.operations(1)
        made, head = repository.restore(number), repository.head().commit

    def render() -> None:
        if [made.id] == [operation.id for operation in newest]:
            click.echo(f"nothing to restore: all is as after operation {number}; HEAD is at {head[:10]}")
            return
        io.line(f"{made.description}; HEAD is at {head[:10]}")
        for line in moved_lines(made):
            click.echo(f"  {line}")

    io.emit(made, render, head=head)


@verb(name="op", example="memitvc op log -n 5", cls=click.Group)
def command(io: IO) -> None:
    """The log of operations, and the way back to any point of it."""
    click.get_current_context().obj = io.start


assert isinstance(command, click.Group)  # noqa: S101 (what `verb` was asked for)
for part in (log, restore):
    command.add_command(part)
