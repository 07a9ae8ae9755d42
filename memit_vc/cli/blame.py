from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from memit_vc.cli.io import IO, check_text, verb
from memit_vc.cli.render import fact_line

if TYPE_CHECKING:
    from memit_vc.objects import CommitId
    from memit_vc.porcelain.asking.blame import Blame, Blamed


@verb(name="blame", example='memitvc blame "The Eiffel Tower is located in the city of"')
@click.argument("prompt")
@click.argument("revision", default="HEAD")
@click.option(
    "--subject",
    help="Use the key of these words of PROMPT. Default: the subject of the live fact with this prompt; else a live "
    "fact's subject that occurs in PROMPT; else a name in PROMPT, if it is certain; else the end of PROMPT.",
)
@click.option(
    "--measure",
    is_flag=True,
    help="Also leave out each commit and fact in turn, and measure the answer's log-probability.",
)
@click.option("--answer", help="The answer to measure. Default: the model's present answer.")
@click.option(
    "-n",
    "--number",
    "limit",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Rows of each table, and with --measure also how many rows are measured. --json has all rows.",
)
def command(io: IO, prompt: str, measure: bool, **options: Any) -> None:
    """Rank the commits and facts that are live at REVISION by how far each moves the model's output at PROMPT.

    In each edited layer, memit-vc takes what the commit or fact adds to the edited matrix's output at the prompt's key,
    and divides the norm of this addition by the norm of the whole output. The measure is the sum over the layers.
    """
    from memit_vc.porcelain.asking.blame import blame

    check_text(prompt, options["subject"], options["answer"])
    with io.repository() as repository:
        with io.progress() as progress:
            asked = measure or options["answer"] is not None
            found = blame(repository, prompt, measure=asked, progress=progress, **options)
        subjects = {entry.commit: repository.commit(entry.commit).subject for entry in found.commits}
    io.emit(found, lambda: _render(io, found, subjects, options["limit"]))


def _render(io: IO, found: Blame, subjects: Mapping[CommitId, str], limit: int) -> None:
    where = f"the last token of {found.subject!r}" if found.subject else "the last token of the prompt"
    click.echo(f"at {where}:\n")
    titles = ["moves"]
    if found.log_probability is not None:
        click.echo(f"the model answers {found.answer!r} with log-probability {found.log_probability:.2f}\n")
        titles.append("without it")

    def numbers(entry: Blamed) -> list[str]:
        shown = [f"{entry.influence:.1%}"]
        if found.log_probability is not None:
            shown.append("" if entry.log_probability is None else f"{entry.log_probability:.2f}")
        return shown

    rows: Sequence[Sequence[str]] = [
        [entry.commit[:10], *numbers(entry), subjects[entry.commit]] for entry in found.commits[:limit]
    ]
    io.table(["commit", *titles, "message"], rows, right=titles)
    click.echo()
    rows = [[entry.commit[:10], *numbers(entry), _facts(entry)] for entry in found.facts[:limit]]
    io.table(["commit", *titles, "fact"], rows, right=titles)
    io.note("moves: the length of the update's output there, as a share of the whole output's, summed over the layers")


def _facts(entry: Blamed) -> str:
    more = f" (and {len(entry.facts) - 1} more, in one patch)" if len(entry.facts) > 1 else ""
    return fact_line(entry.facts[0]) + more
