from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import fact_line, score_rows
from memit_vc.cli.sides import conflict_options_as
from memit_vc.errors import UsageError
from memit_vc.objects.measures import number
from memit_vc.progress import count

if TYPE_CHECKING:
    from memit_vc.objects import CommitId
    from memit_vc.porcelain.recomputing.new_base import OnNewBase, ReplayedFact

_SHOWN = {"ES": "ES", "PS": "PS", "NS": "NS", "argmax": "rewrite_acc"}


@verb(
    name="rebase",
    example="memitvc rebase main\nmemitvc rebase --base HuggingFaceTB/SmolLM2-360M-Instruct --dry-run",
)
@click.argument("onto", required=False)
@click.option("--base", metavar="NEW", help="Replay the live facts on this model: a directory, or a Hub id.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --base: where the new repository goes. Default: NAME-edits beside this one, with the new model's NAME.",
)
@click.option("--revision", help="With --base: commit, tag or branch of a Hub model.")
@click.option(
    "--hparams",
    metavar="FILE|NAME",
    help="With --base: hyperparameters. Default: this repository's if the new model has the same tensor names, and its "
    "editable matrices have the same shapes; else a shipped file or a guess.",
)
@click.option("--corpus", metavar="SOURCE", help="With --base: text for statistics. Default: this repository's.")
@click.option("--all-facts", is_flag=True, help="With --base: also edit the facts that the new model answers already.")
@click.option("--dry-run", is_flag=True, help="With --base: only show what the new model says of the facts.")
@conflict_options_as(
    ours="With --base: of two live facts that contradict each other, take the earlier one.",
    theirs="With --base: of two live facts that contradict each other, take the later one.",
    both="With --base: take both of two live facts that contradict each other.",
)
@click.option("--no-scores", is_flag=True, help="Do not measure scores before and after each batch.")
def command(io: IO, onto: str | None, base: str | None, no_scores: bool, **options: Any) -> None:
    """Take the commits that are in HEAD but not in ONTO, and put them on top of ONTO. Each batch is computed again
    there, with its own settings. Reverts are repeated. The branch moves at the end, in one step. `merge` joins two
    branches without computing anything. Use `rebase` if the batches should take the facts of ONTO into account.

    If a fact contradicts a fact that is live at ONTO, the command stops with exit code 13: revert one of the two
    first, or use `merge`. `rebase` refuses merges, and commits that --resolve or --compress made. A commit of
    another kind may also have a cancel column, which takes a fact out. For example, a plain cherry-pick of a `revert
    --resolve` commit has one. `rebase` refuses such a commit if `rebase` would compute the cancelled edit again,
    because the cancel column fits only the old edit (https://github.com/memit-vc/memit-vc/blob/main/docs/glossary.md).

    With --base, the command makes a new repository on another model instead, such as a fine-tuned version, the next
    release or another size. It takes the facts that are live at HEAD, and computes their commits again there, in order.
    Each commit keeps its message and author. Facts that the new model already answers are left out. If the command was
    stopped, run it again: it then continues the work.
    """
    if base is None:
        idle = [_option(name, value) for name, value in options.items() if value not in (None, False, "stop")]
        if idle:
            needs = "needs" if len(idle) == 1 else "need"
            raise UsageError(
                f"{', '.join(sorted(idle))} {needs} --base", hint="Leave it out, or name a model: --base NEW"
            )
        if onto is None:
            raise UsageError(
                "neither ONTO nor --base is given", hint="Type: memitvc rebase main, or memitvc rebase --base NEW"
            )
        _onto(io, onto, no_scores)
        return
    if onto is not None:
        raise UsageError(
            f"ONTO ({onto}) and --base do not go together", hint="First `memitvc switch` to the branch to replay."
        )
    from memit_vc.porcelain.recomputing.new_base import rebase_base

    with io.repository() as repository, io.progress() as progress:
        made = rebase_base(repository, base, scores=not no_scores, progress=progress, **options)
        subjects = {old: repository.commit(old).subject for old, _ in made.commits}
    for note in made.notes:
        io.note(note)
    for warning in made.warnings:
        io.warn(warning)
    io.emit(made, lambda: _show(io, made, subjects))


def _option(name: str, value: object) -> str:
    return f"--{value}" if name == "on_conflict" else f"--{name.replace('_', '-')}"


def _onto(io: IO, onto: str, no_scores: bool) -> None:
    from memit_vc.porcelain.editing.policy import guard_of
    from memit_vc.porcelain.recomputing.rebase import rebase

    with io.repository() as repository:
        with io.progress() as progress:
            guard = guard_of(repository, progress=progress)
            made = rebase(repository, onto, scores=not no_scores, guard=guard, progress=progress)
        subjects = {new: repository.commit(new).subject for _, new in made.commits}

    def details() -> None:
        for old, new in made.commits:
            click.echo(f"  {old[:10]} → {new[:10]} {subjects[new]}")
        for old in made.skipped:
            io.note(f"  {old[:10]} has nothing left to change there")

    io.outcome(
        made,
        "fast-forward" if made.fast_forward else f"{count(len(made.commits), 'commit')} onto {made.onto[:10]}",
        details,
    )


def _show(io: IO, made: OnNewBase, subjects: dict[CommitId, str]) -> None:
    known = sum(each.known for each in made.facts)
    origin = "guessed from its config" if made.hparams_from == "guessed" else made.hparams_from
    what = "would become" if made.dry_run else "became"
    io.line(f"{count(len(made.commits), 'commit')} of {made.branch} {what} a history on {made.base}")
    io.line(f"hyperparameters: {origin}; the new base gives {known} of {count(len(made.facts), 'fact')} already")
    for old, new in made.commits:
        click.echo(f"  {old[:10]} → {new[:10] if new else '…'} {subjects[old]}")
    for old in made.skipped:
        io.note(f"  {old[:10]} has nothing left to change there")
    io.table(
        ["fact", "new base", *(_SHOWN if made.before else ())],
        [[fact_line(each.fact), "knows it" if each.known else "–", *_cells(each)] for each in made.facts],
    )
    if made.before is not None and made.after is not None:
        rows = score_rows([made.before, made.after])
        if made.perplexity_before is not None and made.perplexity_after is not None:
            rows.append(["perplexity of health text", f"{made.perplexity_before:.2f}", f"{made.perplexity_after:.2f}"])
        io.table(["", "before", "after"], rows, right=("before", "after"))
    io.line(f"nothing was written; the repository would be {made.directory}" if made.dry_run else str(made.directory))


def _cells(each: ReplayedFact) -> list[str]:
    sides = [side for side in (each.before, each.after) if side is not None]
    return [" → ".join(number(side.get(name), 1) for side in sides) for name in _SHOWN.values()] if sides else []
