from __future__ import annotations

from typing import Any

import click

from memit_vc.cli.io import IO, verb
from memit_vc.progress import count


@verb(name="stats", example="memitvc stats --corpus wikitext.jsonl --tokens 20000")
@click.option(
    "--corpus",
    metavar="SOURCE",
    help="A .txt, .jsonl, .json or .parquet file; hub:OWNER/NAME[:CONFIG[:SPLIT]]; `shipped` (English text "
    "that comes with memit-vc); `pydoc` (English text that comes with Python); `self` (text sampled from the model). "
    "Default: the text of the last `stats`. If there was no `stats`: the text given to `init`, or `self`.",
)
@click.option("--field", help="Field or column that holds the text.")
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    help="Number of tokens to read from the text, at most. Default: ten times the number of inputs of the widest "
    "edited matrix.",
)
@click.option("--hparams", metavar="FILE|NAME", help="Use these hyperparameters instead of the repository's.")
@click.option("--import", "source", metavar="PATH", help="Take EasyEdit's or memit's .npz files instead of computing.")
def command(io: IO, source: str | None, **options: Any) -> None:
    """Compute the second moment of the keys of every edited layer over plain text, in one pass.

    If the statistics are missing, `commit` computes them itself. If you change layers or the number of tokens, the text
    stays the same. If a run is killed, the next run continues the work.
    """
    from memit_vc.porcelain.editing.statistics import compute_statistics

    with io.repository() as repository, io.progress() as progress:
        made = compute_statistics(repository, source=source, progress=progress, **options)

    def render() -> None:
        verb = "computed" if made.computed else "already there"
        layers = ", ".join(map(str, made.layers))
        click.echo(f"statistics {made.id[:10]} {verb}: {made.tokens:,} tokens, layers {layers}")
        if made.tokens < made.asked:
            io.warn(f"{made.asked:,} tokens were asked for, and the text has only {made.tokens:,}: name a longer one")
        for layer, ridge in made.ridges.items():
            if ridge:
                of = f" of {count(made.ridged[layer], 'expert')}" if made.ridged[layer] else ""
                io.warn(
                    f"layer {layer}: too little text for a positive definite moment{of}; ridge {ridge:.3g} is added"
                )

    record = {
        "id": made.id,
        "tokens": made.tokens,
        "asked": made.asked,
        "layers": made.layers,
        "computed": made.computed,
    }
    io.emit({**record, "ridge": made.ridges, "experts_with_ridge": made.ridged}, render)
