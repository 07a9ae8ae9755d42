from __future__ import annotations

from pathlib import Path

import click

from memit_vc.cli.io import IO, verb
from memit_vc.errors import UsageError
from memit_vc.progress import count

_PATH = click.Path(path_type=Path)


@verb(name="sign", example="memitvc sign v1.0 --key key.pem -o signature")
@click.argument("revision", default="HEAD", metavar="[REV]")
@click.option(
    "--key", type=_PATH, required=True, metavar="FILE", help="The private key: of an elliptic curve, in PEM format."
)
@click.option(
    "-o", "--out", type=_PATH, required=True, metavar="DIR", help="Write statement and signature to this directory."
)
@click.option("--ask-password", is_flag=True, help="Ask for the password of the key.")
def command(io: IO, revision: str, key: Path, out: Path, ask_password: bool) -> None:
    """Sign the model of REV (default HEAD): its commit, and the hash of every tensor.

    `memitvc verify MODEL --signature DIR` checks the signature. Config, tokenizer, and the
    distribution of the tensors over files are not signed.
    """
    from memit_vc.porcelain.output.signature import sign
    from memit_vc.store.fresh import refuse_inside_repository

    refuse_inside_repository(out)
    password = None
    if ask_password:
        try:
            password = click.prompt("Password of the key", hide_input=True, err=True)
        except click.Abort as error:
            if not isinstance(error.__context__, EOFError):
                raise
            raise UsageError("no password was given: the input is at its end", hint="Type it in a terminal.") from None
    with io.repository() as repository:
        made = sign(repository, revision, out, key=key, password=password)

    def render() -> None:
        what = f"commit {made.commit[:10]}, state {made.state[:10]}, {count(made.tensors, 'tensor')}"
        io.line(f"{made.directory}: {what} signed")

    io.emit(made, render)
