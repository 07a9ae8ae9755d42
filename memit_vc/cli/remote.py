from __future__ import annotations

from pathlib import Path

import click

from memit_vc.cli.io import IO, verb
from memit_vc.errors import UsageError
from memit_vc.progress import count


@verb(name="remote", example="memitvc remote add origin hf://owner/name\nmemitvc remote")
@click.argument("action", required=False, type=click.Choice(["list", "add", "remove"]))
@click.argument("name", required=False)
@click.argument("url", required=False)
def command(io: IO, action: str | None, name: str | None, url: str | None) -> None:
    """List the remotes (`remote`, `remote list`), or `remote add NAME URL`, `remote remove NAME`.

    URL is a directory, or a repository on the Hugging Face Hub: hf://owner/name, or owner/name if no such directory
    exists. hf://owner/name@BRANCH means the branch BRANCH of the Hub repository instead of main. s3://bucket/path,
    gs://bucket/path and az://container/path are places in an object store, with the cloud's own credentials. A
    directory need not exist yet: the first push makes it. This command sends and fetches nothing.
    """
    from memit_vc.porcelain.sharing.remotes import add_remote, remotes, remove_remote

    expected = {"add": 2, "remove": 1}.get(action or "list", 0)
    given = sum(each is not None for each in (name, url))
    if given != expected:
        raise UsageError(
            f"`remote {action or 'list'}` takes {count(expected, 'argument')}, not {given}",
            hint="Type `memitvc remote`, `memitvc remote add NAME URL` or `memitvc remote remove NAME`.",
        )
    with io.repository() as repository:
        if action == "add" and name is not None and url is not None:
            kept = add_remote(repository, name, url, directory=Path())
            io.emit({"name": name, "url": kept}, lambda: io.line(f"{name}  {kept}"))
        elif action == "remove" and name is not None:
            remove_remote(repository, name)
            io.emit({"name": name}, lambda: click.echo(f"{name} is forgotten; nothing was deleted there"))
        else:
            known = remotes(repository)

            def render() -> None:
                for each, place in known.items():
                    io.line(f"{each}  {place}")

            io.emit([{"name": each, "url": place} for each, place in known.items()], render)
