from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import score_rows
from memit_vc.cli.sides import check_overlap_option, conflict_options, likely_conflicts, require_option
from memit_vc.errors import UsageError
from memit_vc.progress import count

if TYPE_CHECKING:
    from memit_vc.porcelain.editing.commit import Committed


@verb(
    name="commit",
    example='memitvc commit edits.json -m "Where things are"\nmemitvc commit --amend -m "Where things are now"',
)
@click.argument("edits", required=False)
@click.option("-m", "--message", help="Message of the commit. Default: the first fact, and the number of facts.")
@conflict_options
@click.option("--hparams", metavar="FILE|NAME", help="Use these hyperparameters instead of the repository's.")
@click.option("--corpus", metavar="SOURCE", help="Text for statistics, as in `memitvc stats --corpus`.")
@click.option("--tokens", type=click.IntRange(min=1), help="Number of tokens to read from the text for statistics.")
@require_option
@click.option("--no-scores", is_flag=True, help="Do not measure scores before and after the edit.")
@check_overlap_option
@click.option(
    "--amend",
    is_flag=True,
    help="Replace HEAD's commit with a new commit of EDITS. Without EDITS, -m changes only the message.",
)
@click.option(
    "--patch",
    metavar="ID",
    help="Commit a kept patch: a computed patch that no commit holds. `memitvc status` lists kept patches.",
)
@click.option("--drop", is_flag=True, help="With --patch: delete the kept patch, and make no commit.")
def command(
    io: IO,
    edits: str | None,
    hparams: str | None,
    no_scores: bool,
    check_overlap: bool | None,
    amend: bool,
    patch: str | None,
    drop: bool,
    **options: Any,
) -> None:
    """Edit the facts of EDITS into the model, and record the edit as a commit. EDITS is a JSON, JSON Lines or CSV file,
    or - for standard input.

    Records have EasyEdit's keys (prompt, subject, target_new, …) or MEMIT's (requested_rewrite, …). Files of zsRE,
    QAEdit, WikiBigEdit, UnKE and MQuAKE may have their own keys. `commit` prints a note with the keys that
    it does not know.
    """
    if drop and patch is None:
        raise UsageError(
            "--drop deletes a kept patch, and none is named", hint="Name it: memitvc commit --patch ID --drop"
        )
    unread = {"hparams": hparams, "no_scores": no_scores, "check_overlap": check_overlap, **options}
    if patch is not None:
        if edits is not None or amend:
            raise UsageError(
                "--patch commits a kept patch: it takes neither EDITS nor --amend",
                hint="Type: memitvc commit --patch ID",
            )
        _refuse_unused(
            "--patch with --drop" if drop else "--patch",
            unread,
            ("message", "on_conflict", "require") if not drop else (),
        )
        if drop:
            _drop_kept(io, patch)
            return
        _commit_kept(io, patch, **{name: options[name] for name in ("on_conflict", "message", "require")})
        return
    if edits is None:
        if not amend:
            raise UsageError("no edits are given", hint="Give a file of edits, or - for standard input.")
        _refuse_unused("--amend without EDITS", unread, ("message",))
        _amend_message(io, options["message"])
        return
    from memit_vc.porcelain.editing.commit import commit_facts

    with io.repository() as repository:
        batch = io.edits(edits)
        with io.progress() as progress:
            made = commit_facts(
                repository,
                batch.facts,
                hparams=repository.hparams(hparams),
                scores=not no_scores,
                amend=amend,
                origins=batch.origins,
                progress=progress,
                **options,
            )
        likely = likely_conflicts(io, repository, [made.id], check_overlap)
    io.outcome(
        made,
        f"{count(made.facts, 'fact')}, {made.survived:.1%} of the update kept",
        lambda: _details(io, made),
        **({} if likely is None else {"overlaps": likely}),
    )


def _refuse_unused(what: str, given: Mapping[str, object], used: Collection[str]) -> None:
    """UsageError for options that were given and would say nothing."""
    idle = [name for name, value in given.items() if name not in used and value not in (None, False, "stop", ())]
    if idle:
        names = ", ".join(f"--{str(given[n]) if n == 'on_conflict' else n.replace('_', '-')}" for n in idle)
        raise UsageError(f"{what} does not use {names}", hint="Leave it out.")


def _commit_kept(io: IO, patch: str, *, require: tuple[str, ...], **options: Any) -> None:
    from memit_vc.porcelain.editing.policy import guard_of
    from memit_vc.porcelain.sets.commit_kept import commit_kept

    with io.repository() as repository, io.progress() as progress:
        made = commit_kept(repository, patch, guard=guard_of(repository, require, progress=progress), **options)
    io.outcome(made, f"{count(made.facts, 'fact')} of the kept patch")


def _drop_kept(io: IO, patch: str) -> None:
    from memit_vc.porcelain.sets.commit_kept import drop_kept

    with io.repository() as repository:
        dropped = drop_kept(repository, patch)
    io.emit(
        {"dropped": dropped}, lambda: click.echo(f"patch {dropped[:10]} is no longer kept; `memitvc gc` removes it")
    )


def _amend_message(io: IO, message: str | None) -> None:
    from memit_vc.porcelain.sets.amend import amend_message

    if message is None:
        raise UsageError("there is nothing to amend", hint="Give a file of edits, or another message with -m.")
    with io.repository() as repository:
        made = amend_message(repository, message)
    io.outcome(made, made.subject)


def _details(io: IO, made: Committed) -> None:
    click.echo(f"load {made.load:.1%} of the layers' inputs, mean leverage {made.leverage:.0%}")
    if made.before is not None and made.after is not None:
        rows = score_rows([made.before, made.after])
        if made.perplexity_before is not None and made.perplexity_after is not None:
            rows.append(["perplexity of health text", f"{made.perplexity_before:.2f}", f"{made.perplexity_after:.2f}"])
        io.table(["", "before", "after"], rows, right=("before", "after"))
