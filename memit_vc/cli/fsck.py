from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from memit_vc.cli.io import IO, verb
from memit_vc.errors import UsageError
from memit_vc.progress import count

if TYPE_CHECKING:
    from memit_vc.porcelain.upkeep.rebuild import Rebuilt


@verb(name="fsck", example="memitvc fsck --full")
@click.option("--quick", is_flag=True, help="Do not read the content of blobs and shards.")
@click.option(
    "--full",
    is_flag=True,
    help="Also compute the weights of every state that was checked out, and compare their hashes.",
)
@click.option("--rebuild", is_flag=True, help="First make meta.db again from the objects and the journal.")
def command(io: IO, quick: bool, full: bool, rebuild: bool) -> int:
    """Check the repository: every blob against its name, every row against its id, every patch against the grid, the
    shards of the split base against the base, and statistics and caches against their digests.

    https://github.com/memit-vc/memit-vc/blob/main/docs/glossary.md explains the grid and the split base. If a damaged
    file can be computed again, it is removed or marked; the next command that needs the file computes it again. If
    anything is wrong, the exit code is 12.

    The database meta.db is an index: if it is missing, damaged, or older than the journal, --rebuild makes it again. A
    copy of the old meta.db is kept. If only the journal is missing, --rebuild makes the journal from meta.db.
    """
    from memit_vc.porcelain.upkeep.fsck import fsck

    if quick and full:
        raise UsageError("--quick and --full exclude each other", hint="Give one of them, or none.")
    made = _rebuilt(io) if rebuild else None
    with io.repository(damaged=True) as repository, io.progress() as progress:
        problems, orphans = fsck(repository, quick=quick, weights=full, progress=progress)

    def render() -> None:
        for problem in problems:
            click.echo(f"{problem.kind} {problem.object}: {problem.message}")
        if orphans:
            belong, them = ("belongs", "it") if orphans == 1 else ("belong", "them")
            io.note(
                f"{count(orphans, 'object')} {belong} to no commit (`rebase`, a dropped patch or a stopped command may "
                f"have left {them}); "
                f"`memitvc gc` removes {them} after an hour, and `memitvc gc --grace 0` at once"
            )
        if any(problem.kind == "lost commit" or problem.object in ("meta.db", "journal") for problem in problems):
            io.note("`memitvc fsck --rebuild` makes meta.db again from the objects and the journal")
        if not problems:
            click.echo("ok: every object, row and patch is what it says it is")

    io.emit({"ok": not problems, "problems": problems, "orphans": orphans, "rebuilt": made}, render)
    return 12 if problems else 0


def _rebuilt(io: IO) -> Rebuilt:
    from memit_vc.porcelain.upkeep.rebuild import rebuild

    with io.progress() as progress:
        made = rebuild(Path(), progress=progress)
    io.note(f"made again: {made.made}, {count(made.commits, 'commit')}, {count(made.operations, 'operation')}")
    for gap in made.gaps:
        io.warn(f"the journal has a gap: {gap}")
    if made.recovered:
        io.warn(f"commits that the journal does not have are on {', '.join(made.recovered)}")
    if made.aside is not None:
        io.note(f"a copy of the old one: {made.aside}")
    return made
