from __future__ import annotations

from typing import Any

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import show_resolved
from memit_vc.cli.sides import (
    UNSEEN,
    change_text,
    check_overlap_option,
    conflict_options,
    likely_conflicts,
    require_option,
)


@verb(name="merge", example="memitvc merge origin/main --theirs")
@click.argument("revision")
@conflict_options
@click.option("--no-ff", is_flag=True, help="Make a merge commit even if HEAD could just move forward to REVISION.")
@click.option("--resolve", is_flag=True, help="Solve the facts of both sides together. This loads the model.")
@check_overlap_option
@require_option
@click.option("-m", "--message", help="Message of the merge commit.")
def command(
    io: IO,
    revision: str,
    no_ff: bool,
    resolve: bool,
    check_overlap: bool | None,
    require: tuple[str, ...],
    **options: Any,
) -> None:
    """Merge REVISION into HEAD. The result has every change that either side made since their common commit. If both
    sides made the same change, the change counts once.

    If facts contradict each other (same subject and prompt, different targets), the merge stops with exit code 13,
    unless --ours, --theirs or --keep-both is given. Only --resolve and bounds on scores (--require, or [policy] in
    config.toml) load a model.
    """
    from memit_vc.porcelain.editing.policy import guard_of

    if resolve:
        from memit_vc.porcelain.recomputing.resolve_join import resolve_merge

        with io.repository() as repository, io.progress() as progress:
            guard = guard_of(repository, require, progress=progress)
            solved = resolve_merge(repository, revision, guard=guard, progress=progress, **options)
            likely = likely_conflicts(io, repository, [solved.id], check_overlap)
        show_resolved(io, solved, overlaps=likely)
        return
    from memit_vc.porcelain.sets.merge import merge

    with io.repository() as repository, io.progress() as progress:
        guard = guard_of(repository, require, progress=progress)
        made = merge(repository, revision, fast_forward=not no_ff, guard=guard, **options)
        likely = likely_conflicts(io, repository, [made.id], True) if check_overlap and made.how == "merge" else None

    def details() -> None:
        if made.how == "merge" and made.added and check_overlap is None:
            io.note(UNSEEN)
        if made.how == "fast-forward" and options["message"] is not None:
            io.note("-m was not used: HEAD moved forward without a commit. --no-ff makes one.")

    more = {} if likely is None else {"overlaps": likely}
    if made.how == "up-to-date":
        io.emit(made, lambda: click.echo("already up to date"), **more)
    else:
        io.outcome(made, change_text(made) + (", fast-forward" if made.how != "merge" else ""), details, **more)
