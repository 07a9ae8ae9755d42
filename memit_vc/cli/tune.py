from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from memit_vc.cli.io import IO, FiniteRange, verb
from memit_vc.progress import count


@verb(name="tune", example="memitvc tune --minutes 20 -o hparams.yaml")
@click.option(
    "--facts",
    metavar="EDITS",
    help="Measure with the facts of EDITS instead of the sixty facts that come with memit-vc.",
)
@click.option(
    "--minutes",
    type=FiniteRange(min=0),
    help="After this many minutes, do not start another measurement.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("hparams.yaml"),
    help="The new file. Default: hparams.yaml in the current directory, not in .memitvc.",
)
def command(io: IO, facts: str | None, output: Path, **options: Any) -> None:
    """Measure which layers and which λ (the weight of the statistics) are best for this repository's base.

    The best values and all measurements are written to a file. Nothing is committed, and hparams.yaml stays as it
    is. The repository keeps only the statistics that were computed. If a run is stopped, the next run continues the
    work.

    `tune` always measures with the search for z (https://github.com/memit-vc/memit-vc/blob/main/docs/engine.md).
    `passes` (how often the edit goes over the layers) matters only with `search_for: z`. So `tune` varies `passes` only
    if your hyperparameters have `search_for: z`. Otherwise it measures with one pass.
    """
    from memit_vc.porcelain.editing.tune import tune
    from memit_vc.store.files import check_new_file, write_atomic

    check_new_file(output)
    with io.repository() as repository, io.progress() as progress:
        chosen = None if facts is None else io.edits(facts).facts
        made = tune(repository, facts=chosen, progress=progress, **options)
        told = [f"chosen by `memitvc tune` in {made.seconds / 60:.0f} minutes, from:", *(t.line() for t in made.tried)]
        if made.left_out:
            told.append(f"{count(made.left_out, 'setting')} left out for lack of time: --minutes N gives more")
        write_atomic(output, made.hparams.to_yaml(comments={"": "\n".join(told)}).encode(), replace=False)

    def render() -> None:
        io.table(
            ["layers", "λ", "passes", "facts", "prompts", "paraphrases", "same subject", "perplexity"],
            [
                [
                    each.span,
                    f"{each.weight:g}",
                    str(each.passes),
                    str(each.facts),
                    f"{each.prompts:.2f}",
                    f"{each.paraphrases:.2f}",
                    f"{each.same_subject:.2f}",
                    f"× {each.perplexity:.3f}",
                ]
                for each in made.tried
            ],
        )
        click.echo(f"best: {made.best.line()}")
        if made.left_out:
            io.note(
                f"{count(made.left_out, 'setting')} left out: a longer --minutes tries them, and measures nothing twice"
            )
        io.line(f"{output}: use it with `memitvc commit --hparams {output}`, or `memitvc init BASE --hparams {output}`")

    io.emit({**vars(made), "hparams": str(output)}, render)
