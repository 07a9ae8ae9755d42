from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.errors import UsageError
from memit_vc.progress import count


@verb(name="fsck", example="memitvc fsck --full")
@click.option("--quick", is_flag=True, help="Do not read what blobs and shards hold.")
@click.option("--full", is_flag=True, help="Also compute the weights of every state that was checked out, and compare.")
def command(io: IO, quick: bool, full: bool) -> int:
    """Check the repository: every blob against its name, every row against its id, every patch against the grid, the
    shards of checkouts against the base, and statistics and caches against their digests.

    Damaged files that can be made again are removed. Exit code 12 if anything is wrong.
    """
    from memit_vc.porcelain.upkeep.fsck import fsck

    if quick and full:
        raise UsageError("--quick and --full exclude each other", hint="Give one of them, or none.")
    with io.repository() as repository, io.progress() as progress:
        problems, orphans = fsck(repository, quick=quick, weights=full, progress=progress)

    def render() -> None:
        for problem in problems:
            click.echo(f"{problem.kind} {problem.object}: {problem.message}")
        if orphans:
            belong, them = ("belongs", "it") if orphans == 1 else ("belong", "them")
            io.note(
                f"{count(orphans, 'object')} {belong} to no commit (a stopped command left {them}); "
                f"`memitvc gc` removes {them}"
            )
        if not problems:
            click.echo("ok: every object, row and patch is what it says it is")

    io.emit({"ok": not problems, "problems": problems, "orphans": orphans}, render)
    return 12 if problems else 0
