from __future__ import annotations

from typing import Any

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import show_resolved
from memit_vc.cli.sides import UNSEEN, change_text, check_overlap_option, conflict_options, likely_conflicts


@verb(name="cherry-pick", example="memitvc cherry-pick trial~1")
@click.argument("revisions", nargs=-1, required=True)
@conflict_options
@click.option(
    "--resolve",
    is_flag=True,
    help="Solve the facts of REVISIONS again, from their stored keys and targets. This loads the model.",
)
@check_overlap_option
@click.option("-m", "--message", help="Message of the new commits. Default: from the picked commits.")
def command(io: IO, revisions: tuple[str, ...], resolve: bool, check_overlap: bool | None, **options: Any) -> None:
    """Make the changes of REVISIONS (commits, or ranges A..B) again on HEAD. Columns that a commit added are added, and
    columns that it removed are removed. Each commit becomes one new commit; with --resolve, all become one. Only
    --resolve loads a model.

    A commit whose change HEAD already has is left out. If a fact contradicts a live fact, the command stops with exit
    code 13.
    """
    if resolve:
        from memit_vc.porcelain.recomputing.resolve_join import resolve_pick

        with io.repository() as repository, io.progress() as progress:
            solved = resolve_pick(repository, revisions, progress=progress, **options)
            likely = likely_conflicts(io, repository, [solved.id], check_overlap)
        show_resolved(io, solved, overlaps=likely)
        return
    from memit_vc.porcelain.sets.cherry_pick import cherry_pick

    with io.repository() as repository:
        made = cherry_pick(repository, revisions, **options)
        likely = likely_conflicts(io, repository, made.ids, True) if check_overlap else None

    def details() -> None:
        if check_overlap is None:
            io.note(UNSEEN)
        for commit in made.skipped:
            io.note(f"the change of {commit[:10]} is here already")

    io.outcome(made, change_text(made), details, **({} if likely is None else {"overlaps": likely}))
