from __future__ import annotations

from pathlib import Path

import click

from memit_vc.cli.io import IO, verb
from memit_vc.errors import UsageError
from memit_vc.progress import count


@verb(name="verify", example="memitvc verify model --expect v1.0")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--expect", metavar="REV", help="Fail unless the directory is this revision.")
def command(io: IO, model: Path, expect: str | None) -> None:
    """Hash every tensor of the model directory MODEL and say which state of this repository it is.

    Exit code 15 if it is not a state of this repository, or not the expected one.
    """
    from memit_vc.porcelain.output.verify import verify

    if not model.is_dir():
        raise UsageError(f"{model}: is not a directory", hint="Give a directory with a model, such as a checkout.")
    with io.repository() as repository:
        with io.progress() as progress:
            found = verify(repository, model, expect=expect, progress=progress)
        subjects = [repository.commit(commit).subject for commit in found.commits]

    def render() -> None:
        what = "the untouched base" if found.is_base else f"state {(found.state or '')[:10]}"
        click.echo(f"{found.directory} is {what}: {count(found.compared, 'tensor')}, every hash equal")
        for commit, subject in zip(found.commits, subjects, strict=True):
            click.echo(f"  {commit[:10]} {subject}{'' if found.on_branch else ', on no branch (undone or replaced)'}")

    if found.recorded is not None:
        io.note(
            f"{model / 'memitvc.json'} names state {found.recorded[:10]}: a switch was interrupted; "
            f"`memitvc checkout REV --in-place {model}` finishes it"
        )
    shown = ("directory", "state", "commits", "is_base", "recorded", "on_branch")
    io.emit({"tensors": found.compared, **{name: getattr(found, name) for name in shown}}, render)
