"""memitvc push --merged: shown by `push`, kept apart from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from memit_vc.progress import count, size_text

if TYPE_CHECKING:
    from memit_vc.cli.io import IO
    from memit_vc.remote.opening import PushOptions

__all__ = ["push_model"]


def push_model(io: IO, name: str | None, revision: str, options: PushOptions, tag: str | None, dry_run: bool) -> None:
    """Publish the model of `revision` in the Hub repository `name`. UsageError for anything that is no such name."""
    from memit_vc.errors import UsageError
    from memit_vc.porcelain.sharing.push_merged import push_merged
    from memit_vc.remote.hub import HubRemote
    from memit_vc.remote.opening import checked_url, open_remote

    if name is None:
        raise click.UsageError("name the repository for the model: memitvc push --merged OWNER/NAME [REV]")
    there = open_remote(checked_url(name, directory=Path()), options)
    if not isinstance(there, HubRemote):
        raise UsageError(
            f"{name} is no repository on the Hub; a model is pushed to one of its own",
            hint="Give its name: memitvc push --merged OWNER/NAME. `memitvc export --merged DIR` writes a directory.",
        )
    with io.repository() as repository, io.progress() as progress:
        made = push_merged(repository, there, revision, dry_run=dry_run, progress=progress)
    if tag is not None and made.revision is not None:
        there.tag(tag, made.revision)
    for note in made.notes:
        io.note(note)

    def render() -> None:
        if dry_run:
            rows = [[path, "send", str(size)] for path, size in made.sent.items()]
            rows += [[path, "copy there", str(size)] for path, size in made.copied.items()]
            io.table(["file", "", "bytes"], rows, right=["bytes"])
        sent = f"{count(len(made.sent), 'file')}, {size_text(sum(made.sent.values()))}"
        click.echo(f"{'would send' if dry_run else 'sent'} {sent} to {made.url}")
        if made.copied:
            copied = f"{count(len(made.copied), 'file')}, {size_text(sum(made.copied.values()))}"
            click.echo(f"{'would be copied' if dry_run else 'copied'} from the base on the Hub: {copied}")
        if made.kept:
            click.echo(f"there already: {count(len(made.kept), 'file')}")
        click.echo(f"the model of commit {made.commit[:10]}, state {made.state[:10]}")
        if made.pull_request is not None:
            click.echo(f"pull request: {made.pull_request}")

    io.emit(made, render, dry_run=dry_run)
