from __future__ import annotations

from pathlib import Path

import click

from memit_vc.cli.io import IO, verb
from memit_vc.progress import count, size_text


@verb(name="clone", example="memitvc clone hf://owner/name edits --base models/smollm2")
@click.argument("url")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--base", metavar="DIR|ID", help="Where the base is: a directory or a Hub id. Default: as recorded.")
def command(io: IO, url: str, directory: Path | None, base: str | None) -> None:
    """Clone URL (an address as in `memitvc remote`) to DIRECTORY (default: named after URL).

    The base is fetched from the Hub at the recorded revision, or taken from --base. The base is checked tensor by
    tensor. The history is checked as in a fetch. URL becomes the remote `origin`. No model is loaded.
    """
    from memit_vc.porcelain.sharing.clone import clone

    with io.progress() as progress:
        made = clone(url, directory, base=base, start=Path(), progress=progress)
    for note in (*made.notes, *made.fetched.notes):
        io.note(note)

    def render() -> None:
        came = f"{count(made.fetched.commits, 'commit')}, {count(made.fetched.objects, 'object')}"
        io.line(f"cloned {made.fetched.url} to {made.directory}: {came}, {size_text(made.fetched.bytes)}")
        io.line(f"base {made.base}: every tensor is the one it was made on")
        click.echo(f"on {made.branch} at {made.commit[:10]}")

    io.emit(made, render)
