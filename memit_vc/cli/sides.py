"""What verbs that join two sides share: their options, likely conflicts, the words for a change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from memit_vc.errors import EngineError, MemitVCError
from memit_vc.objects import CommitId, JsonValue
from memit_vc.progress import count

if TYPE_CHECKING:
    from memit_vc.cli.io import IO
    from memit_vc.porcelain.record import Outcome
    from memit_vc.repository import Repository


_SHOWN = 10
UNSEEN = "likely conflicts (similar keys) were not checked: --check-overlap does that"

_F = TypeVar("_F", bound=Callable[..., Any])


def conflict_options(function: _F) -> _F:
    """--ours, --theirs, --keep-both as `on_conflict`; "stop" if none is given."""
    return conflict_options_as(
        ours="If facts contradict each other, keep the facts that are live at HEAD.",
        theirs="If facts contradict each other, keep the facts that this command adds or restores. If both "
        "contradicting facts come from this command, the command stops.",
        both="If facts contradict each other, keep both.",
    )(function)


def conflict_options_as(*, ours: str, theirs: str, both: str) -> Callable[[_F], _F]:
    """The same options for a command to which they mean something else: the help of each."""

    def add(function: _F) -> _F:
        for name, text in (("keep-both", both), ("theirs", theirs), ("ours", ours)):
            function = click.option(f"--{name}", "on_conflict", flag_value=name, default="stop", help=text)(function)
        return function

    return add


def require_option(function: _F) -> _F:
    """--require, any number of times."""
    return click.option(
        "--require",
        multiple=True,
        metavar="BOUND",
        help='Refuse the change if a score breaks this bound, such as "argmax >= 0.95", "NS_drop <= 0.03" or '
        '"perplexity_rise <= 0.02". The bounds in config.toml also apply: [policy] require = ["BOUND"]. `commit` '
        "measures the facts of its own batch; other commands measure all live facts.",
    )(function)


def check_overlap_option(function: _F) -> _F:
    """--check-overlap as True, False, or None if it is not given."""
    return click.option(
        "--check-overlap/--no-check-overlap",
        default=None,
        help="Warn about likely conflicts: facts with different targets, whose subjects the model treats as nearly the "
        "same. The check needs the statistics and the live facts' stored keys. `commit` makes this check by default. "
        "`merge` and `cherry-pick` make it by default only with --resolve.",
    )(function)


def likely_conflicts(
    io: IO, repository: Repository, commits: Sequence[CommitId], wanted: bool | None
) -> list[JsonValue] | None:
    """Warn about likely conflicts that commits made, with the numbers. Returns them as JSON, None if they were not
    checked.

    With `wanted` None they are checked if that is possible. If it is asked for and not possible, that is a warning and
    not a failure: the commits are made.
    """
    if wanted is False:
        return None
    from memit_vc.porcelain.editing.overlap import commit_overlaps

    try:
        found = [overlap for commit in commits for overlap in commit_overlaps(repository, commit)]
    except EngineError as error:
        if wanted:
            io.warn(error.message)
        return None
    except (MemitVCError, MemoryError, RuntimeError) as error:  # torch says so too that memory ran out
        reason = next(iter(str(error).splitlines()), "there is not enough memory for this")
        io.warn(f"likely conflicts could not be looked for: {reason}")
        return None
    for overlap in found[:_SHOWN]:
        io.warn(f"likely conflict: {overlap.line()}")
    if len(found) > _SHOWN:
        io.warn(f"and {count(len(found) - _SHOWN, 'more likely conflict')}")
    return [overlap.to_json() for overlap in found]


def change_text(made: Outcome) -> str:
    """ "3 columns in, 1 column out"."""
    parts = [f"{count(n, 'column')} {way}" for n, way in ((made.added, "in"), (made.removed, "out")) if n]
    return ", ".join(parts) or "the same state"
