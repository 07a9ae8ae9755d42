from __future__ import annotations

from pathlib import Path

import click

from memit_vc.cli.io import IO, verb
from memit_vc.progress import count


@verb(
    name="phrase",
    example="memitvc phrase edits.json -o phrased.json --book\n"
    "memitvc phrase edits.json -o phrased.json --with HuggingFaceTB/SmolLM2-1.7B-Instruct",
)
@click.argument("edits")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .json, .jsonl or .csv file.")
@click.option("--with", "model", metavar="MODEL", help="A chat model: a directory or a Hub id. Default: the base.")
@click.option("--book", is_flag=True, help="Take the phrasings from a book of common relations. No model is loaded.")
@click.option("-n", "number", type=click.IntRange(min=1, max=20), default=3, help="Phrasings of each fact. Default: 3.")
def command(io: IO, edits: str, output: Path, model: str | None, book: bool, number: int) -> None:
    """Write the edits of EDITS to OUTPUT with further phrasings of each prompt, from a chat model or the phrase book.

    Read the phrasings before you commit: the edit uses them, so a wrong phrasing also gets the new answer. The phrase
    book has common relations in several wordings. A prompt that the book does not know gets no phrasing from the
    book. `commit` also takes wordings from the book by itself: the key `phrase_book` in hparams.yaml says how many at
    most. To use only the phrasings in OUTPUT, set this key to 0.
    """
    from memit_vc.edits import write_records
    from memit_vc.errors import UsageError
    from memit_vc.porcelain.base import find_base
    from memit_vc.porcelain.editing.phrase import phrase
    from memit_vc.store.files import check_new_file, write_atomic

    if book and model is not None:
        raise UsageError("--book and --with are two sources of phrasings", hint="Leave one out.")
    kinds = {".json": "json", ".jsonl": "jsonl", ".csv": "csv"}
    form = kinds.get(output.suffix.lower())
    if form is None:
        raise UsageError(f"{output}: the ending names no format", hint="Name a .json, .jsonl or .csv file.")
    check_new_file(output)
    batch = io.edits(edits)
    if book:
        from memit_vc.numerics.forward.phrasebook import PhraseBook

        made = PhraseBook.shipped().added(batch.facts, number)
    else:
        if model is None:
            with io.repository() as repository:
                model = str(find_base(repository.config))
        from memit_vc.numerics.model.pretrained import load_pretrained

        with io.progress() as progress:
            made = phrase(batch.facts, *load_pretrained(model), count=number, progress=progress)
    write_atomic(output, write_records(made, format=form).encode(), replace=False)  # type: ignore[arg-type]
    new = [len(now.phrasings) - len(was.phrasings) for now, was in zip(made, batch.facts, strict=True)]

    def render() -> None:
        io.line(f"{output}: {count(sum(new), 'phrasing')} for {count(len(made), 'fact')}; look them through")
        if new.count(0):
            io.note(f"{count(new.count(0), 'fact')} got none that could be used")

    io.emit({"output": str(output), "facts": len(made), "phrasings": sum(new), "without": new.count(0)}, render)
