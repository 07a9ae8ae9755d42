"""memitvc cherry-pick"""

from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.show_resolved import show_resolved
from memit_vc.cli.sides import UNSEEN, change_text, check_overlap_option, conflict_options, likely_conflicts


@verb(name="cherry-pick")
@click.argument("revisions", nargs=-1, required=True)
@conflict_options
@click.option("--resolve", is_flag=True, help="Solve the facts in by their stored constraints. Needs the model.")
@check_overlap_option
@click.option("-m", "--message", help="Message of the new commits. Default: the picked ones'.")
def command(
    io: IO,
    revisions: tuple[str, ...],
    on_conflict: str | None,
    resolve: bool,
    check_overlap: bool | None,
    message: str | None,
) -> None:
    """Put the columns that REVISIONS (commits, or ranges A..B) brought in into HEAD's state, one new commit for each.
    No model is loaded.

    What is here already is left out. A contradiction with a live fact stops with exit code 13.
    """
    if resolve:
        from memit_vc.porcelain.recomputing.resolve_join import resolve_pick

        with io.repository() as repository, io.progress() as progress:
            solved = resolve_pick(
                repository,
                revisions,
                on_conflict=on_conflict or "stop",  # type: ignore[arg-type]  # one of the flags' values
                message=message,
                progress=progress,
            )
            likely = likely_conflicts(io, repository, [solved.id], check_overlap)
        show_resolved(io, solved, overlaps=likely)
        return
    from memit_vc.porcelain.sets.cherry_pick import cherry_pick

    with io.repository() as repository:
        made = cherry_pick(
            repository,
            revisions,
            on_conflict=on_conflict or "stop",  # type: ignore[arg-type]  # one of the flags' values
            message=message,
        )
        likely = likely_conflicts(io, repository, made.ids, True) if check_overlap else None
    for note in made.notes:
        io.warn(note)

    def render() -> None:
        where = made.branch or "detached HEAD"
        click.echo(f"[{where} {made.ids[-1][:10]}] {change_text(made.added, made.removed)}")
        if check_overlap is None:
            io.note(UNSEEN)
        for commit in made.skipped:
            io.note(f"{commit[:10]} is here already")

    io.emit(
        {
            **vars(made),
            "ids": list(made.ids),
            "picked": list(made.picked),
            "skipped": list(made.skipped),
            "contradictions": [each.to_json() for each in made.contradictions],
            "notes": list(made.notes),
            **({} if likely is None else {"overlaps": likely}),
        },
        render,
    )
