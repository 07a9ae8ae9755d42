from __future__ import annotations

import click

from memit_vc.cli.io import IO, FiniteRange, verb
from memit_vc.cli.render import show_resolved
from memit_vc.errors import UsageError
from memit_vc.progress import count


@verb(name="squash")
@click.argument("span", required=False, metavar="[A..B]")
@click.option("--all", "everything", is_flag=True, help="The whole history of HEAD.")
@click.option(
    "--resolve",
    is_flag=True,
    help="Solve all live facts afresh, in one commit on top. Repairs plain and much-reverted histories.",
)
@click.option(
    "--compress",
    "tolerance",
    type=FiniteRange(min=0, max=1, min_open=True, max_open=True),
    metavar="TOL",
    help="Fewer columns for all of HEAD's state, in one commit on top: the smallest rank at which no tensor's update "
    "changes by more than this share of its norm.",
)
@click.option("-m", "--message", help="Message of the new commit. Default: the subjects of the squashed ones.")
def command(
    io: IO, span: str | None, everything: bool, resolve: bool, tolerance: float | None, message: str | None
) -> None:
    """Squash the commits that B has and A has not into one patch of the columns that are still live at B; what was
    brought in and taken out again cancels. No model is loaded, and the weights are bit-identical: that is checked
    before the branch moves.

    With --resolve the weights do change: one new patch, solved from the constraints of all live facts, takes the place
    of every column. With --compress they change by no more than TOL: one patch of lower rank takes that place.

    Commits behind B get new ids. The old ones stay in the operation log (`memitvc undo`) until it is pruned.
    """
    if tolerance is not None:
        if span is not None or resolve:
            raise UsageError(
                "--compress takes all of HEAD's columns together: no range, no --resolve",
                hint="Type: memitvc squash --compress TOL",
            )
        _compress(io, tolerance, message)
        return
    if resolve:
        from memit_vc.porcelain.recomputing.resolve import resolve_squash

        if span is not None:
            raise UsageError(
                "--resolve solves all live facts of HEAD: a range cannot be solved by itself",
                hint="Type: memitvc squash --resolve",
            )
        with io.repository() as repository, io.progress() as progress:
            solved = resolve_squash(repository, message=message, progress=progress)
        show_resolved(io, solved)
        return
    from memit_vc.porcelain.sets.squash import squash

    if everything == (span is not None):
        raise UsageError(
            "give a range A..B, or --all",
            hint="For example: memitvc squash HEAD~3..HEAD; `memitvc log` shows the commits.",
        )
    with io.repository() as repository:
        made = squash(repository, span, message=message)

    def details() -> None:
        if made.patches > 1:
            io.note(f"{made.patches} patches: dense ones, and ones on other layers, cannot be joined")
        if made.rewritten:
            have = "has a new id" if made.rewritten == 1 else "have new ids"
            io.note(f"{count(made.rewritten, 'later commit')} {have}; the tip is {made.tip[:10]}")
        if made.left_behind:
            io.note(f"still on the old history: {', '.join(made.left_behind)}")
        if made.brings_back:
            io.note(
                f"a merge of {', '.join(made.brings_back)} brings back what the range took out again: the squash does "
                "not remember that"
            )

    cancelled = f", {made.cancelled} cancelled" if made.cancelled else ""
    columns = f"{count(made.columns, 'column')}{cancelled}"
    io.outcome(
        made, f"{count(made.squashed, 'commit')} into one: {columns}; state {made.state[:10]} as before", details
    )


def _compress(io: IO, tolerance: float, message: str | None) -> None:
    from memit_vc.porcelain.recomputing.compress import compress

    with io.repository() as repository, io.progress() as progress:
        made = compress(repository, tolerance, message=message, progress=progress)

    def details() -> None:
        io.table(
            ["tensor", "rank", "error"],
            [[name, str(made.ranks[name]), f"{made.errors[name]:.2e}"] for name in made.ranks],
            right=("rank", "error"),
        )
        io.note(
            "the facts leave together, or one by one with `revert --resolve`; a revert of this brings all bits back"
        )

    sizes = f"{made.bytes_before / 1e6:.2f} MB → {made.bytes_after / 1e6:.2f} MB"
    io.outcome(made, f"{count(made.columns, 'column')} into rank {made.rank}: {sizes}", details)
