"""The demo: the real commands, one after the other, and a table of what the model answers at each point."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from memit_vc.cli.io import IO
from memit_vc.errors import MemitVCError, UsageError
from memit_vc.objects import Fact

__all__ = ["tell"]


def tell(io: IO, *, keep: Path | None, model: Path | None) -> None:
    """Run the demo in `keep` (a new directory), or in a temporary one that is removed afterwards."""
    if keep is not None:
        where = io.directory / keep
        if where.exists() and any(where.iterdir()):
            raise UsageError(f"{where} is not empty", hint="Name a new directory for --keep.")
        where.mkdir(parents=True, exist_ok=True)
        _story(io, where, model)
        click.echo(f"\nThe repository is in {where}; try `memitvc -C {where} log`.")
        return
    with tempfile.TemporaryDirectory(prefix="memitvc-demo-") as name:
        _story(io, Path(name), model)
    click.echo("\nThe demo's repository was temporary; `memitvc demo --keep DIR` keeps it to play with.")


def _story(io: IO, where: Path, model: Path | None) -> None:
    from memit_vc.edits import write_records
    from memit_vc.porcelain.demo_facts import FIRST, SECOND

    began = time.monotonic()
    base = model.resolve() if model is not None else _obtain(io)
    obtained = time.monotonic()
    for name, batch in (("first.json", FIRST), ("second.json", SECOND)):
        (where / name).write_text(write_records(batch, format="json"), encoding="utf-8")

    _say("A repository on a base model: every tensor's hash is recorded.")
    _run(where, "init", str(base))
    _say("Ten facts become one commit. On the way, once, text is sampled for statistics: some minutes.")
    _run(where, "commit", "first.json", "-m", "Ten facts about the world")
    _say("Five more, on top.")
    _run(where, "commit", "second.json", "-m", "Five more facts")
    _run(where, "log", "--graph")
    _run(where, "show", "HEAD")
    _run(where, "facts")
    _say("Take the first commit out of the middle of the history. No model is loaded for that.")
    _run(where, "revert", "HEAD~1")
    _run(where, "log", "--oneline")
    _say("The model as it is now, for plain transformers; and the proof of what it is.")
    _run(where, "checkout", "HEAD", "-o", "model")
    _run(where, "verify", "model")
    _say("What the model answers:")
    _answers(io, where, [*FIRST, *SECOND], first=len(FIRST))
    _say("Take the second commit out as well: nothing is left, bit for bit.")
    _run(where, "revert", "HEAD~1")
    _run(where, "checkout", "HEAD", "--in-place", "model")
    _run(where, "verify", "model", "--expect", "HEAD~4")
    _run(where, "fsck")
    done = time.monotonic()
    click.echo(f"\nmodel obtained in {obtained - began:.0f} s, the story took {done - obtained:.0f} s")


def _obtain(io: IO) -> Path:
    from memit_vc.porcelain.cache import user_cache
    from memit_vc.porcelain.demo_model import demo_model

    with io.progress() as progress:
        path, source = demo_model(user_cache(), progress=progress)
    click.echo(f"model: SmolLM2-135M-Instruct from {source}")
    return path


def _say(text: str) -> None:
    click.echo("\n" + click.style(f"# {text}", bold=True))


def _run(where: Path, *arguments: str) -> None:
    """Show a command as it would be typed, then run it here."""
    from memit_vc.cli.main import cli

    typed = " ".join(shlex.quote(word) if " " in word else word for word in arguments)
    click.echo(click.style(f"$ memitvc {typed}", fg="green"))
    command = [arguments[0], "-C", str(where), *_from(where, arguments[1:])]
    result = cli.main(command, prog_name="memitvc", standalone_mode=False)
    if isinstance(result, int) and result:
        raise MemitVCError(f"`memitvc {arguments[0]}` ended with {result}")


def _from(where: Path, arguments: Sequence[str]) -> list[str]:
    """Edit files and model directories are read from where the user is, not from -C."""
    return [str(where / a) if a.endswith(".json") or a == "model" else a for a in arguments]


def _answers(io: IO, where: Path, facts: Sequence[Fact], *, first: int) -> None:
    from memit_vc.porcelain.answers import answers
    from memit_vc.repository import Repository

    with Repository.open(where) as repository, io.progress() as progress:
        prompts = [fact.prompt for fact in facts]
        table = answers(repository, prompts, ["HEAD~3", "HEAD~1", "HEAD"], progress=progress)
    rows = []
    for index, fact in enumerate(facts):
        base, edited, reverted = (_said(answer) for answer in table[index])
        rows.append(["1st" if index < first else "2nd", f"{fact.prompt} …", base, edited, reverted, fact.target])
    io.table(["commit", "prompt", "base", "after both", "1st reverted", "asked for"], rows)


def _said(answer: str) -> str:
    """The first few words of an answer."""
    words = answer.split()[:3]
    return " ".join(words).rstrip(".,;:") or "(nothing)"
