from __future__ import annotations

import click

from memit_vc.cli.io import IO, FiniteRange, verb
from memit_vc.cli.render import show_resolved
from memit_vc.errors import UsageError
from memit_vc.progress import count


@verb(name="squash", example='memitvc squash v1.0..HEAD -m "All of autumn"\nmemitvc squash --resolve')
@click.argument("span", required=False, metavar="[A..B]")
@click.option("--all", "everything", is_flag=True, help="Replace the whole history of HEAD, instead of A..B.")
@click.option(
    "--resolve",
    is_flag=True,
    help="Solve the live facts again, which changes the weights. Use this after many reverts and merges. It loads the "
    "model's weights, but does not run the model.",
)
@click.option(
    "--compress",
    "tolerance",
    type=FiniteRange(min=0, max=1, min_open=True, max_open=True),
    metavar="TOL",
    help="Put all live facts into one compressed patch, which changes the weights slightly. TOL is the largest error, "
    "as a share of the norm of each tensor's update.",
)
@click.option(
    "-m",
    "--message",
    help="Message of the new commit. Default: the first lines of the squashed commits' messages; with --resolve or "
    "--compress, what the command did.",
)
def command(
    io: IO, span: str | None, everything: bool, resolve: bool, tolerance: float | None, message: str | None
) -> None:
    """Replace the commits in A..B (the commits that B reaches and A does not reach) with one commit. Edits that were
    made and reverted within the range are left out. Before the branch moves, the command checks that the weights stay
    bit-identical. Commits after B get new ids. `memitvc undo` can bring the old commits back, until the operation log
    is pruned.

    --resolve and --compress take no range and replace no commit. Instead, one new commit on top of HEAD puts all live
    facts into one new patch. If you revert the new commit, the old weights come back exactly, unless a fact of the new
    commit was reverted or replaced in the meantime.
    """
    if tolerance is not None:
        if span is not None or resolve or everything:
            raise UsageError(
                "--compress works on HEAD's whole state: it takes no range, no --all and no --resolve",
                hint="Type: memitvc squash --compress TOL",
            )
        _compress(io, tolerance, message)
        return
    if resolve:
        from memit_vc.porcelain.recomputing.resolve import resolve_squash

        if span is not None or everything:
            raise UsageError(
                "--resolve solves all live facts of HEAD: it takes no range and no --all",
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
            hint="Name one, such as HEAD~3..HEAD; `memitvc log` shows the commits.",
        )
    with io.repository() as repository:
        made = squash(repository, span, message=message)

    def details() -> None:
        if made.patches > 1:
            io.note(f"{made.patches} patches stay apart: dense patches, and patches on other layers, cannot be joined")
        if made.rewritten:
            have = "has a new id" if made.rewritten == 1 else "have new ids"
            io.note(f"{count(made.rewritten, 'later commit')} {have}; the tip is {made.tip[:10]}")
        if made.left_behind:
            io.note(f"still on the old history: {', '.join(made.left_behind)}")
        if made.brings_back:
            io.note(
                f"merging {', '.join(made.brings_back)} will bring back facts that the range removed: the squash does "
                "not remember the removal"
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
            "these facts can now only be reverted together, or one by one with `revert --resolve`; reverting this "
            "commit restores the previous weights exactly"
        )

    sizes = f"{made.bytes_before / 1e6:.2f} MB → {made.bytes_after / 1e6:.2f} MB"
    io.outcome(made, f"{count(made.columns, 'column')} into rank {made.rank}: {sizes}", details)
