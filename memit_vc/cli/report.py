from __future__ import annotations

from pathlib import Path

import click

from memit_vc.cli.io import IO, verb


@verb(name="report", example="memitvc report -o report.html\nmemitvc report v1.0")
@click.argument("revision", default="HEAD")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    metavar="FILE.html",
    help="Where to write the page (default report.html). An earlier report there is replaced.",
)
def command(io: IO, revision: str, output: Path) -> None:
    """Write the history of REVISION (default HEAD), its facts and their scores as one page that any browser opens.

    The page needs no network and no server. It is made from what was measured: `memitvc eval REV` measures more.
    """
    from memit_vc.page.render import render
    from memit_vc.page.writing import write_page
    from memit_vc.porcelain.history.report import gather

    with io.repository() as repository, io.progress() as progress:
        report = gather(repository, revision, progress=progress)
    size = write_page(output, render(report))
    record = {
        "path": str(output),
        "bytes": size,
        "revision": report.revision,
        "state": report.state,
        "commits": len(report.commits) - 1,
        "facts": len(report.facts),
        "live": len(report.live),
        "no_longer_answered": [fact.id for fact in report.broken],
        "never_answered": [fact.id for fact in report.never],
        "neighbours_made_wrong": {
            fact.id: [report.commits[suspect].id for suspect in fact.broke["neighbours"]] for fact in report.spoiled
        },
    }
    io.emit(record, lambda: io.line(f"{output}: {_sentence(len(report.live), len(report.commits) - 1, size)}"))


def _sentence(facts: int, commits: int, size: int) -> str:
    from memit_vc.progress import count, size_text

    return f"{count(facts, 'live fact')}, {count(commits, 'commit')}, {size_text(size)}"
