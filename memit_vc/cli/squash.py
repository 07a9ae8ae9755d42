"""memitvc squash"""

from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.show_resolved import show_resolved
from memit_vc.errors import UsageError


@verb(name="squash", short_help="Make one commit of many; the weights stay as they are.")
@click.argument("span", required=False, metavar="[A..B]")
@click.option("--all", "everything", is_flag=True, help="The whole history of HEAD.")
@click.option(
    "--resolve",
    is_flag=True,
    help="Solve all live facts afresh, in one commit on top. Repairs plain and much-reverted histories.",
)
@click.option("-m", "--message", help="Message of the new commit. Default: the subjects of the squashed ones.")
def command(io: IO, span: str | None, everything: bool, resolve: bool, message: str | None) -> None:
    """Squash the commits that B has and A has not into one patch of the columns that are still live at B; what was
    brought in and taken out again cancels. No model is loaded, and the weights are bit-identical: that is checked
    before the branch moves.

    With --resolve the weights do change: one new patch, solved from the constraints of all live facts, takes the place
    of every column.

    Commits behind B get new ids. The old ones stay in the operation log (`memitvc undo`) until it is pruned.
    """
    if resolve:
        from memit_vc.porcelain.resolve import resolve_squash

        if span is not None:
            raise UsageError("--resolve solves all live facts of HEAD: a range cannot be solved by itself")
        with io.repository() as repository, io.progress() as progress:
            solved = resolve_squash(repository, message=message, progress=progress)
        show_resolved(io, solved)
        return
    from memit_vc.porcelain.squash import squash

    if everything == (span is not None):
        raise UsageError("give a range A..B, or --all")
    with io.repository() as repository:
        made = squash(repository, span, message=message)

    def render() -> None:
        cancelled = f", {made.cancelled} cancelled" if made.cancelled else ""
        click.echo(
            f"[{made.branch or 'detached HEAD'} {made.id[:10]}] {made.squashed} commits into one: "
            f"{made.columns} columns{cancelled}; state {made.state[:10]} as before"
        )
        if made.patches > 1:
            io.note(f"{made.patches} patches: dense ones, and ones on other layers, cannot be joined")
        if made.rewritten:
            io.note(f"{made.rewritten} later commits have new ids; the tip is {made.tip[:10]}")
        if made.left_behind:
            io.note(f"still on the old history: {', '.join(made.left_behind)}")

    io.emit({**vars(made), "left_behind": list(made.left_behind)}, render)
