from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.sides import change_text, conflict_options
from memit_vc.errors import UsageError
from memit_vc.progress import count

if TYPE_CHECKING:
    from memit_vc.vcs.contradictions import OnConflict

_PATH = click.Path(path_type=Path)


@verb(
    name="import",
    example="memitvc import changes.memitvc\nmemitvc import --adapter lora --name polite --licence apache-2.0",
)
@click.argument("file", type=_PATH, required=False)
@click.option("--adapter", type=_PATH, metavar="DIR", help="A PEFT LoRA as one commit, instead of FILE.")
@click.option("--name", metavar="TEXT", help="With --adapter: the adapter's name. Default: the name on the card.")
@click.option(
    "--licence", metavar="TEXT", help="With --adapter: the adapter's licence. Default: the licence on the card."
)
@click.option(
    "--source",
    metavar="TEXT",
    help="With --adapter: where the adapter is from. Default: the Hub id, if DIR is in the Hub client's cache.",
)
@click.option("-m", "--message", help="With --adapter: message of the commit.")
@conflict_options
def command(
    io: IO,
    file: Path | None,
    adapter: Path | None,
    name: str | None,
    licence: str | None,
    source: str | None,
    message: str | None,
    on_conflict: OnConflict,
) -> None:
    """Put the commits of FILE (from `export --patch`) on HEAD. Each commit of FILE becomes one new commit. No model is
    loaded.

    FILE must belong to the same base. The whole file is checked before anything is stored. Commits whose change HEAD
    already has are left out.

    With --adapter, one commit holds all that the LoRA adds to the weights. This commit is about no fact. `revert`,
    `merge` and the other commands treat the whole LoRA as one column. The LoRA may also change attention weights.
    """
    if (file is None) == (adapter is None):
        raise click.UsageError("give a FILE, or --adapter DIR")
    for option, value in (("name", name), ("licence", licence), ("source", source)):
        if value is not None and not value.strip():
            raise UsageError(f"--{option} is empty", hint=f"Give it, or leave --{option} out.")
    if adapter is None and any(value is not None for value in (name, licence, source, message)):
        raise click.UsageError("--name, --licence, --source and --message go with --adapter")
    if adapter is not None:
        if on_conflict != "stop":
            raise click.UsageError(f"--{on_conflict} goes with FILE: an adapter has no facts")
        _adapter(io, adapter, name, licence, source, message)
    elif file is not None:
        _file(io, file, on_conflict)


def _file(io: IO, file: Path, on_conflict: OnConflict) -> None:
    from memit_vc.porcelain.sharing.import_patch import import_patch

    with io.repository() as repository, io.progress() as progress:
        made = import_patch(repository, file, on_conflict=on_conflict, progress=progress)

    def details() -> None:
        for commit in made.skipped:
            io.note(f"the change of {commit[:10]} is here already")

    if made.ids:
        io.outcome(made, change_text(made), details)
    else:
        io.emit(made, lambda: io.line(f"everything in {file} is here already"))


def _adapter(
    io: IO, directory: Path, name: str | None, licence: str | None, source: str | None, message: str | None
) -> None:
    from memit_vc.porcelain.sharing.adapter_files import told
    from memit_vc.porcelain.sharing.import_adapter import import_adapter

    with io.repository() as repository, io.progress() as progress:
        made = import_adapter(
            repository, directory, about=told(name, licence, source), message=message, progress=progress
        )

    def details() -> None:
        if made.new_weights:
            io.note(f"{count(len(made.new_weights), 'weight')} changed that facts cannot edit")

    io.outcome(made, f"{made.name}: {count(len(made.weights), 'weight')} changed", details)
