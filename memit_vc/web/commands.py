"""The commands that the page's buttons stand for: verbs that lose nothing, and take no option but these."""

from __future__ import annotations

import shlex
from pathlib import Path

from memit_vc.errors import RefMovedError, UsageError
from memit_vc.foreign.text import is_unicode
from memit_vc.objects import short
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.sets.revert import revert
from memit_vc.progress import count
from memit_vc.repository import Repository
from memit_vc.store.fresh import refuse_inside_repository


def newest_operation(repository: Repository) -> int:
    """The number of the newest operation; 0 if the log is empty, as `gc --prune-operations` leaves it."""
    return next((operation.id for operation in repository.operations(1)), 0)


def run(repository: Repository, line: str, *, seen: int) -> str:
    """Do what a command line says; a sentence on what was done. `seen` is the newest operation that the page knows.

    UsageError for any other line; RefMovedError if something was done since.
    """
    if "\0" in line or not is_unicode(line):
        raise UsageError("the command line has characters that no file name has", hint="Type it in a terminal.")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{line!r} is not a command line: {error}", hint="Type it in a terminal.") from error
    if words[:1] != ["memitvc"] or any(word.startswith("-") for word in words if word not in ("-o", "--fact")):
        words = []
    newest = newest_operation(repository)
    if words[1:2] != ["checkout"] and newest != seen:
        raise RefMovedError("the history has changed since this page was made", hint="Load the page again, and look.")
    match words[1:]:
        case ["undo"]:
            return repository.undo().description
        case ["redo"]:
            return repository.redo().description
        case ["revert", revision]:
            return _reverted(repository, revision, None)
        case ["revert", revision, "--fact", fact]:
            return _reverted(repository, revision, fact)
        case ["checkout", revision, "-o", directory]:
            refuse_inside_repository(Path(directory))
            made = checkout(repository, revision, Path(directory))
            return f"{Path(directory).absolute()}: state {short(made.state)} of commit {short(made.commit)}"
    raise UsageError(f"the page does not run {line!r}", hint="Type it in a terminal.")


def _reverted(repository: Repository, revision: str, fact: str | None) -> str:
    made = revert(repository, [revision], fact=fact)
    parts = [f"{count(n, 'column')} {way}" for n, way in ((made.removed, "out"), (made.added, "back")) if n]
    return f"[{made.branch or 'detached HEAD'} {short(made.id)}] {', '.join(parts)}"
