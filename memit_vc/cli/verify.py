from __future__ import annotations

from pathlib import Path

import click

from memit_vc.cli.io import IO, verb
from memit_vc.errors import UsageError
from memit_vc.progress import count

_PATH = click.Path(path_type=Path)


@verb(
    name="verify",
    example="memitvc verify model --expect v1.0\nmemitvc verify model --signature signature --key public.pem",
)
@click.argument("model", type=_PATH)
@click.option("--expect", metavar="REV", help="Fail if MODEL is not the model of this revision.")
@click.option("--every", is_flag=True, help="Compare with every state, even if that takes long.")
@click.option(
    "--signature",
    type=_PATH,
    metavar="DIR",
    help="Check the signature that `sign` wrote to DIR. No repository is needed.",
)
@click.option("--key", type=_PATH, metavar="FILE", help="With --signature, required: the signer's public key.")
def command(io: IO, model: Path, expect: str | None, every: bool, signature: Path | None, key: Path | None) -> None:
    """Hash every tensor of the model directory MODEL, and say which state of this repository it is.

    The hashes of states that were checked out are known. For other states the hashes are computed, but only for the 20
    states that MODEL is most likely to be.

    With --signature, check the signature instead, and name the commit that was signed. If MODEL is not a state of this
    repository, not the expected revision, or not the signed model, the exit code is 15.
    """
    from memit_vc.porcelain.output.verify import verify

    if not model.is_dir():
        raise UsageError(f"{model}: is not a directory", hint="Give a directory with a model, such as a checkout.")
    if (signature is None) != (key is None):
        raise click.UsageError("--signature and --key go together")
    if signature is not None and key is not None:
        if expect is not None or every:
            raise click.UsageError(f"--{'every' if expect is None else 'expect'} and --signature do not go together")
        _signature(io, model, signature, key)
        return
    with io.repository() as repository:
        with io.progress() as progress:
            found = verify(repository, model, expect=expect, every=every, progress=progress)
        subjects = [repository.commit(commit).subject for commit in found.commits]

    def render() -> None:
        what = "the untouched base" if found.is_base else f"state {(found.state or '')[:10]}"
        io.line(f"{found.directory} is {what}: {count(found.compared, 'tensor')}, every hash equal")
        for commit, subject in zip(found.commits, subjects, strict=True):
            click.echo(f"  {commit[:10]} {subject}{'' if found.on_branch else ', on no branch (undone or replaced)'}")

    if found.recorded is not None:
        io.note(
            f"{model / 'memitvc.json'} names state {found.recorded[:10]}: a switch was interrupted; "
            f"`memitvc checkout REV --in-place {model}` finishes it"
        )
    shown = ("directory", "state", "commits", "is_base", "recorded", "on_branch")
    io.emit({"tensors": found.compared, **{name: getattr(found, name) for name in shown}}, render)


def _signature(io: IO, model: Path, signature: Path, key: Path) -> None:
    from memit_vc.porcelain.output.signature import verify_signature

    with io.progress() as progress:
        found = verify_signature(model, signature, key=key, progress=progress)

    def render() -> None:
        io.line(
            f"{model} is what the key's holder signed: commit {found.commit[:10]}, state {found.state[:10]}, "
            f"{count(found.tensors, 'tensor')}, every hash equal"
        )

    io.emit(found, render)
