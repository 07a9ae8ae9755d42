from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from memit_vc.cli.io import IO, verb


@verb(name="init", example="memitvc init HuggingFaceTB/SmolLM2-135M-Instruct my-edits")
@click.argument("base")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--revision", help="Commit, tag or branch of a Hub model.")
@click.option("--hparams", metavar="FILE|NAME", help="Hyperparameters: an EasyEdit YAML file, or a shipped name.")
@click.option("--corpus", metavar="SOURCE", help="Default text for statistics (see `memitvc stats --help`).")
@click.option("--health", metavar="FILE", help="Text whose perplexity is measured at each commit.")
def command(io: IO, base: str, directory: Path | None, **options: Any) -> None:
    """Start a repository on BASE: a model directory, or a Hub id such as HuggingFaceTB/SmolLM2-135M-Instruct.

    Records the hash of every tensor, and writes hyperparameters for the model to .memitvc/hparams.yaml.
    """
    from memit_vc.porcelain.setup import init

    with io.progress() as progress:
        made = init(base, directory=directory or Path(), progress=progress, **options)
    for note in made.notes:
        io.note(note)

    def render() -> None:
        click.echo(f"Initialized repository in {made.directory / '.memitvc'}")
        click.echo(f"base {made.base} ({made.model_type}), fingerprint {made.base_id[:10]}")
        origin = "guessed from its config" if made.hparams_from == "guessed" else f"from {made.hparams_from}"
        click.echo(f"layers {', '.join(map(str, made.layers))}; hyperparameters {origin}")

    io.emit(made, render)
