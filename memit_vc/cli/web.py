from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click

from memit_vc.cli.io import IO, verb
from memit_vc.errors import MemitVCError


@verb(name="web", example="memitvc web\nmemitvc web --open")
@click.argument("revision", default="HEAD")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="NUMBER", help="Listen here. Default: a free port."
)
@click.option("--open", "opened", is_flag=True, help="Also open the page in the browser.")
def command(io: IO, revision: str, port: int, opened: bool) -> None:
    """Show the report of REVISION (default HEAD) as a live page, until Ctrl-C.

    The page also asks the model at two revisions side by side, and has buttons for undo, redo, revert and checkout.
    The page answers only requests from this machine, and only at the printed address. The command needs more packages:
    pip install 'memit-vc[web]'.
    """
    try:
        from memit_vc.web.server import Server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("memit_vc"):
            raise
        raise MemitVCError(
            f"the live page needs {error.name}, which is not installed",
            hint="Install it: pip install 'memit-vc[web]'. `memitvc report` needs nothing more.",
        ) from error
    from memit_vc.web.desk import Desk

    with io.repository() as repository:
        repository.resolve(revision)
    server = Server(Desk(Path().absolute(), revision), port=port)
    io.emit({"address": server.address, "port": server.port}, lambda: click.echo(server.address))
    io.note("the address holds a secret: anyone who has it can use the page. Ctrl-C stops the server")
    try:
        with _doorway(server.address) if opened else nullcontext() as page:
            if page is not None:
                click.launch(str(page))
                io.note("if the browser stays empty, open the address by hand: it may not read temporary files")
            server.serve()
    except KeyboardInterrupt:
        io.note("stopped; what the buttons did is in `memitvc op log`")


@contextmanager
def _doorway(address: str) -> Iterator[Path]:
    """A file that leads to the address and that nobody else may read: on a command line, every user could see it."""
    with tempfile.TemporaryDirectory(prefix="memitvc-") as directory:
        page = Path(directory) / "memitvc.html"
        page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8")
        yield page
