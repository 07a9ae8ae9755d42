from __future__ import annotations

import shlex
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memit_vc.cli.io import IO, verb
from memit_vc.foreign.text import one_line
from memit_vc.progress import duration

if TYPE_CHECKING:
    from memit_vc.porcelain.setup import InitResult

_GUESSED = "layers, λ and the settings of the search; the notes above say why. Change them in .memitvc/hparams.yaml"

_TEXTS: Mapping[str, str] = {
    "self": " (text that the model writes at the first commit)",
    "shipped": " (text that comes with memit-vc)",
    "pydoc": " (text that comes with Python)",
}


@verb(name="init", example="memitvc init HuggingFaceTB/SmolLM2-135M-Instruct my-edits")
@click.argument("base")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--revision", help="Commit, tag or branch of a Hub model.")
@click.option(
    "--hparams",
    metavar="FILE|NAME",
    help="Hyperparameters: an EasyEdit YAML file, or the name of a file that comes with memit-vc, such as gpt2-xl.",
)
@click.option(
    "--corpus", metavar="SOURCE", help="Text for statistics, as in `memitvc stats --corpus`. Default: `self`."
)
@click.option(
    "--health",
    metavar="FILE",
    help="Text file whose perplexity each commit measures. Default: a part of Python's documentation.",
)
def command(io: IO, base: str, directory: Path | None, **options: Any) -> None:
    """Start a repository on BASE: a model directory, or a Hub id such as HuggingFaceTB/SmolLM2-135M-Instruct.

    The repository is made in DIRECTORY (default: the current directory). The command records the hash of every tensor,
    and writes hyperparameters for the model to .memitvc/hparams.yaml.
    """
    from memit_vc.porcelain.setup import init

    with io.progress() as progress:
        made = init(base, directory=directory or Path(), progress=progress, **options)
    for note in made.notes:
        io.note(note)
    io.emit(made, lambda: click.echo(_screen(made, directory)))


def _screen(made: InitResult, directory: Path | None) -> str:
    """What was chosen, what of it is a guess, what comes next and how long that takes here."""
    guessed = made.hparams_from == "guessed"
    rows = [
        ("base", f"{made.base} ({made.model_type}), fingerprint {made.base_id[:10]}"),
        (
            "edits",
            f"layers {', '.join(map(str, made.layers))} of {made.n_layers}, λ {made.mom2_update_weight:g}; "
            f"hyperparameters {'guessed from its config' if guessed else f'from {made.hparams_from}'}",
        ),
        ("text", f"{made.corpus}{_TEXTS.get(made.corpus, '')}; another one: `memitvc stats --corpus TEXT`"),
        ("guesses", _GUESSED if guessed else f"none, if {made.hparams_from} was written for this model"),
        ("time here", _time(made)),
        ("next", _next(directory)),
    ]
    lines = [one_line(f"Initialized repository in {made.directory / '.memitvc'}")]
    width = min(100, shutil.get_terminal_size().columns)
    for name, text in rows:
        first, *more = textwrap.wrap(one_line(text), width - 11, break_long_words=False, break_on_hyphens=False)
        lines += [f"{name:<11}{first}", *(f"{'':<11}{line}" for line in more)]
    return "\n".join(lines)


def _time(made: InitResult) -> str:
    if made.seconds is None:
        return f"not known: {made.device} has no memory to try it"
    once, fact = duration(made.seconds["statistics"]), duration(made.seconds["fact"])
    return f"on {made.device}, as a short probe of it says: about {once} once, then about {fact} a fact"


def _next(directory: Path | None) -> str:
    enter = f"cd {shlex.quote(str(directory))} && " if directory is not None and directory != Path() else ""
    return f'{enter}memitvc commit EDITS -m "What changes"   (EDITS: a JSON file of prompt, subject, target_new)'
