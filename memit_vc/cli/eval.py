from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import fact_line, score_rows
from memit_vc.objects.measures import number
from memit_vc.progress import count


@verb(name="eval", example="memitvc eval v1.0 --per-fact")
@click.argument("revision", default="HEAD")
@click.option(
    "--edits", metavar="FILE", help="Measure the facts of FILE. Default: the facts that are live at REVISION."
)
@click.option("--per-fact", is_flag=True, help="Also show ES, PS, NS and argmax accuracy of each fact.")
@click.option("--no-perplexity", is_flag=True, help="Do not measure the perplexity of the health text.")
def command(io: IO, revision: str, edits: str | None, per_fact: bool, no_perplexity: bool) -> None:
    """Measure scores on the weights of REVISION (default HEAD). The scores are ES, PS, NS, S, argmax accuracies,
    answers asked freely, answers in chat, other questions about the same subject, the subject's name, and perplexity.
    https://github.com/memit-vc/memit-vc/blob/main/docs/glossary.md explains these scores.
    """
    from memit_vc.porcelain.editing.evaluate import evaluate

    with io.repository() as repository:
        facts = None if edits is None else io.edits(edits).facts
        with io.progress() as progress:
            made = evaluate(repository, revision, facts=facts, perplexity=not no_perplexity, progress=progress)

    def render() -> None:
        click.echo(f"commit {made.commit[:10]}, state {made.state[:10]}, {count(len(made.facts), 'fact')}")
        if per_fact:
            io.table(
                ["fact", "ES", "PS", "NS", "argmax"],
                [
                    [
                        fact_line(f),
                        *(number(made.measured.facts[f.id].get(m), 1) for m in ("ES", "PS", "NS", "rewrite_acc")),
                    ]
                    for f in made.facts
                ],
            )
        rows = score_rows([made.measured.total])
        if made.measured.perplexity is not None:
            rows.append(["perplexity of health text", f"{made.measured.perplexity:.2f}"])
        io.table(["", "value"], rows, right=("value",))

    io.emit({"commit": made.commit, "state": made.state, "scores": made.measured}, render)
