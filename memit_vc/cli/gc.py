from __future__ import annotations

import click

from memit_vc.cli.io import IO, FiniteRange, verb
from memit_vc.progress import count


@verb(name="gc", example="memitvc gc --dry-run")
@click.option("--dry-run", is_flag=True, help="Remove nothing: only say what would be removed.")
@click.option(
    "--prune-operations",
    is_flag=True,
    help="First delete the operation log. Then `undo` can no longer bring back replaced, squashed or deleted commits.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="With --prune-operations: keep the last N operations.",
)
@click.option(
    "--grace",
    type=FiniteRange(min=0),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="Keep objects that are younger than this: a running command may need them.",
)
def command(io: IO, dry_run: bool, prune_operations: bool, keep: int, grace: float) -> None:
    """Remove commits, patches and objects that no branch, tag, operation, kept patch or HEAD reaches."""
    from memit_vc.porcelain.upkeep.gc import collect_garbage

    if keep and not prune_operations:
        raise click.UsageError("--keep goes with --prune-operations")
    with io.repository() as repository, io.progress() as progress:
        gone = collect_garbage(
            repository,
            keep_operations=keep if prune_operations else None,
            grace=grace,
            dry_run=dry_run,
            progress=progress,
        )

    def render() -> None:
        click.echo(
            f"{'would remove' if dry_run else 'removed'} {count(gone.commits, 'commit')}, "
            f"{count(gone.operations, 'operation')}, {count(gone.blobs, 'object')}, "
            f"{count(gone.temporary, 'temporary file')} and {count(gone.cached, 'cached file')}: "
            f"{count(gone.bytes, 'byte')}"
        )

    io.emit(gone, render, dry_run=dry_run)
