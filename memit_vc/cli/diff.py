from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import fact_line, show_behaviour
from memit_vc.errors import UsageError
from memit_vc.foreign.text import one_line

if TYPE_CHECKING:
    from memit_vc.objects import CommitId
    from memit_vc.porcelain.asking.behaviour import Behaviour
    from memit_vc.porcelain.history.diff import FactsDiff
    from memit_vc.porcelain.history.diff_weights import WeightsDiff
    from memit_vc.repository import Repository


@verb(name="diff", example="memitvc diff v1.0..HEAD\nmemitvc diff HEAD~1 --behaviour")
@click.argument("older", required=False, metavar="[A|A..B]")
@click.argument("newer", required=False, metavar="[B]")
@click.option("--facts", is_flag=True, help="Show the facts that differ: the default, unless --weights is given.")
@click.option("--weights", is_flag=True, help="Show rank, norm and singular values of each tensor's change.")
@click.option(
    "--behaviour",
    "--behavior",
    "ask",
    is_flag=True,
    help="Show what the models of A and B answer.",
)
@click.option(
    "--prompts",
    metavar="FILE",
    help="Also ask the prompts in FILE, one per line (- is standard input). This implies --behaviour.",
)
@click.option("--stat", is_flag=True, help="Show only how many facts differ.")
def command(
    io: IO, older: str | None, newer: str | None, facts: bool, weights: bool, ask: bool, prompts: str | None, stat: bool
) -> None:
    """Compare A with B. Without B, A is compared with HEAD. Without A and B, HEAD~1 is compared with HEAD.

    Only --behaviour and --prompts load a model. They ask the models of A and B about the facts that differ, and about
    the paraphrases and neighbours of these facts.

    A fact with + is only in B. A fact with − is only in A. A fact with ~ has another target in B. A fact with = has the
    same target, but it was edited or solved again.
    """
    from memit_vc.porcelain.history.diff import diff, ends
    from memit_vc.porcelain.history.diff_weights import diff_weights

    with io.repository() as repository:
        first, second = ends(repository, older, newer)
        found = diff(repository, first, second)
        tensors = diff_weights(repository, first, second) if weights else None
        said = _ask(io, repository, first, second, prompts) if ask or prompts is not None else None
    if tensors is not None and tensors.note:
        io.warn(tensors.note)

    def render() -> None:
        click.echo(found.sentence + (f"; {tensors.sentence}" if tensors is not None else ""))
        if stat:
            _counts(found)
        elif facts or tensors is None:
            _lines(found)
        if tensors is not None and tensors.tensors:
            click.echo()
            _tensors(io, tensors)
        if said is not None:
            click.echo()
            show_behaviour(io, said)

    record = found.to_json()
    record |= {"weights": tensors.to_json()} if tensors is not None else {}
    record |= {"behaviour": said.to_json()} if said is not None else {}
    io.emit(record, render)


def _ask(io: IO, repository: Repository, older: CommitId, newer: CommitId, prompts: str | None) -> Behaviour:
    from memit_vc.porcelain.asking.behaviour import behaviour

    try:
        lines = _lines_of(prompts) if prompts is not None else []
    except OSError as error:
        raise UsageError(f"--prompts {prompts}: {error.strerror}", hint="Give a text file, or -.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--prompts: not UTF-8: {error.reason}", hint="Save the file as UTF-8.") from error
    with io.progress() as progress:
        given = [line for line in lines if line.strip()]
        return behaviour(repository, older, newer, prompts=given, progress=progress)


def _lines_of(file: str) -> list[str]:
    with click.open_file(file, encoding="utf-8") as opened:
        return [line.rstrip("\r\n").removeprefix("\ufeff") for line in opened]


def _lines(found: FactsDiff) -> None:
    for entry in found.added:
        click.echo(click.style(f"+ {fact_line(entry.fact)}", fg="green"))
    for entry in found.removed:
        click.echo(click.style(f"− {fact_line(entry.fact)}", fg="red"))
    for pair in found.changed:
        fact = pair.after.fact
        line = one_line(f"~ {fact.prompt} → {fact.target} (before: {pair.before.fact.target})")
        click.echo(click.style(line, fg="yellow"))
    for pair in found.recomputed:
        click.echo(f"= {fact_line(pair.after.fact)}: edited again")


def _counts(found: FactsDiff) -> None:
    """How many facts each commit brought in or had brought."""
    gone = [*found.removed, *(c.before for c in found.changed), *(c.before for c in found.recomputed)]
    come = [*found.added, *(c.after for c in found.changed), *(c.after for c in found.recomputed)]
    signs = Counter((entry.commit, "−") for entry in gone) + Counter((entry.commit, "+") for entry in come)
    for (commit, sign), count in signs.items():
        click.echo(f"  {commit[:10]} {sign}{count}")


def _tensors(io: IO, tensors: WeightsDiff) -> None:
    rows = [
        [
            tensor.name,
            str(tensor.rank),
            f"{tensor.norm:.4g}",
            "–" if tensor.relative is None else f"{100 * tensor.relative:.3g} %",
            " ".join(f"{value:.3g}" for value in tensor.top) + (" …" if tensor.rank > len(tensor.top) else ""),
        ]
        for tensor in tensors.tensors
    ]
    io.table(["tensor", "rank", "norm", "of base", "singular values"], rows, right=("rank", "norm", "of base"))
