from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.errors import UsageError


@verb(name="switch", example="memitvc switch trial\nmemitvc switch -c other v1.0")
@click.argument("target", metavar="NAME|REV")
@click.argument("start", required=False, metavar="[REV]")
@click.option("-c", "--create", is_flag=True, help="Make branch NAME at REV (default HEAD) and go there.")
@click.option("--detach", is_flag=True, help="Go to the commit REV, on no branch.")
def command(io: IO, target: str, start: str | None, create: bool, detach: bool) -> None:
    """Move HEAD. NAME is a branch; - is the place before the last switch.

    No model files change: `memitvc checkout` writes the model of a revision.
    """
    from memit_vc.porcelain.sets.switch import switch, switch_detached, switch_to_new

    if create and detach:
        raise UsageError(
            "-c and --detach exclude each other", hint="Use -c to make a branch, --detach to go without one."
        )
    if start is not None and not create:
        raise UsageError("a second argument needs -c", hint=f"Type: memitvc switch -c {target} {start}")
    with io.repository() as repository:
        if create:
            now = switch_to_new(repository, target, start or "HEAD")
        elif detach:
            now = switch_detached(repository, target)
        else:
            now = switch(repository, target)

    def render() -> None:
        where = f"on branch {now.branch}" if now.branch else "HEAD detached"
        already = "" if now.moved else "already "
        click.echo(f"{already}{where}: {now.commit[:10]} {now.subject}")

    io.emit(now, render)
