from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from memit_vc.cli.io import IO, check_text, verb
from memit_vc.errors import UsageError

if TYPE_CHECKING:
    from memit_vc.porcelain.asking.ask import Asked


@verb(
    name="ask",
    example='memitvc ask "The capital of Peru is" --at HEAD~1 --at v1.0\nmemitvc ask - --chat < questions.txt',
)
@click.argument("prompts", nargs=-1, metavar="PROMPT...")
@click.option(
    "--at", "revisions", multiple=True, metavar="REV", help="Also ask the model of this revision; can be repeated."
)
@click.option("--chat", is_flag=True, help="Ask as a user does in chat, with the model's own chat template.")
@click.option(
    "-n",
    "--tokens",
    "new_tokens",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="At most this many new tokens.",
)
def command(io: IO, prompts: tuple[str, ...], revisions: tuple[str, ...], chat: bool, new_tokens: int) -> None:
    """Show what the model at HEAD writes after each PROMPT. With --at, also show what the models of other revisions
    write.

    Without a PROMPT, each line of standard input is a prompt. `-` as PROMPT means the same. The model is loaded once.
    There is no sampling: the model always writes its most likely token, as plain transformers would on a checkout.
    """
    from memit_vc.porcelain.asking.ask import ask

    asked = [line for prompt in prompts or ("-",) for line in (_lines(bool(prompts)) if prompt == "-" else [prompt])]
    check_text(*asked)
    if not asked:
        raise UsageError("there is nothing to ask", hint="Give a PROMPT, or lines on standard input.")
    with io.repository() as repository, io.progress() as progress:
        found = ask(repository, asked, ("HEAD", *revisions), chat=chat, new_tokens=new_tokens, progress=progress)
    io.emit(found, lambda: _render(io, found))


def _lines(named: bool) -> list[str]:
    """The lines of standard input that say something. Nobody is kept waiting at a terminal who did not name it."""
    if not named and sys.stdin.isatty():
        return []
    try:
        lines = [line.rstrip("\r\n").removeprefix("\ufeff") for line in sys.stdin]
        return [line for line in lines if line.strip()]
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8: {error.reason}", hint="Save the text as UTF-8.") from error


def _render(io: IO, found: list[Asked]) -> None:
    if len(found) == len(found[0].answers) == 1:
        click.echo(found[0].answers[0].text.strip())
        return
    revisions = [answer.revision for answer in found[0].answers]
    rows = [[asked.prompt, *(answer.text.strip() for answer in asked.answers)] for asked in found]
    io.table(["prompt", *revisions], rows)
