"""What a shell completes on Tab: revisions, branches, tags, remotes, commits, files.

A Tab should answer at once, so the database is read with sqlite3 alone; loading SQLAlchemy takes longer than all the
rest. Whatever goes wrong completes to nothing: the command itself will say it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_Found: TypeAlias = "Iterator[tuple[str, str]]"
_Completer: TypeAlias = Callable[[Path, str], "_Found"]
"""(where the command runs, what is typed) to values, each with a remark that zsh and fish show."""
_LITERAL = re.compile(r"[\w./@%+=:,^~-]+")
"""Values that every shell takes as they stand. A fetched branch may have `;` or a backquote in its name, and bash would
run what follows."""


def _repository(start: Path) -> Path:
    here = start.absolute()
    return next(each / ".memitvc" for each in (here, *here.parents) if (each / ".memitvc").is_dir())


def _rows(start: Path, query: str, *values: str) -> Iterator[tuple[str, str]]:
    import sqlite3

    address = f"{(_repository(start) / 'meta.db').as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=0.1)) as connection:
        yield from connection.execute(query, values)


def _refs(start: Path, prefix: str) -> _Found:
    for name, _ in _rows(start, "SELECT name, '' FROM refs WHERE name LIKE ? ORDER BY name", f"{prefix}%"):
        yield name.removeprefix(prefix), prefix.strip("s/")


def branches(start: Path, _: str) -> _Found:
    """Local branches."""
    return _refs(start, "heads/")


def tags(start: Path, _: str) -> _Found:
    """Tags."""
    return _refs(start, "tags/")


def revisions(start: Path, typed: str) -> _Found:
    """HEAD, branches, tags, tracking branches; of what begins like an id the commits. Of A..B, the last one."""
    before, dots, last = typed.rpartition("..")
    yield f"{before}{dots}HEAD", ""
    for prefix in ("heads/", "tags/", "remotes/"):
        for name, kind in _refs(start, prefix):
            yield f"{before}{dots}{name}", kind
    if last and not last.strip("0123456789abcdef"):
        query = "SELECT substr(id, 1, 10), message FROM commits WHERE id LIKE ? ORDER BY seq DESC LIMIT 200"
        for name, message in _rows(start, query, f"{last}%"):
            yield f"{before}{dots}{name}", message.split("\n", 1)[0]


def remotes(start: Path, _: str) -> _Found:
    """Remotes by their names, with their addresses."""
    from memit_vc.config import Config

    yield from sorted(Config.load(_repository(start) / "config.toml").remotes.items())


def hyperparameters(_: Path, __: str) -> _Found:
    """The shipped files' names."""
    from memit_vc.config import data_directory

    for path in sorted(data_directory("hparams").glob("*.yaml")):
        yield path.stem, "shipped"


def corpora(_: Path, __: str) -> _Found:
    """The corpora that are no files."""
    yield "shipped", "text that comes with memit-vc"
    yield "self", "text that the model writes"
    yield "pydoc", "Python's documentation"
    yield "hub:", "a data set"


def dtypes(_: Path, __: str) -> _Found:
    """What `export --merged` can write."""
    yield from ((name, "") for name in ("float32", "bfloat16", "float16"))


def nothing(_: Path, __: str) -> _Found:
    """Only files, or only directories."""
    yield from ()


_TAKES: Mapping[str, tuple[_Completer, str]] = {
    **dict.fromkeys(("revision", "revisions", "older", "newer", "bad", "good"), (revisions, "")),
    **dict.fromkeys(("onto", "target", "start", "span", "commits", "expect"), (revisions, "")),
    "bisect.expect": (nothing, ""),
    "branch.name": (branches, ""),
    "branch.other": (revisions, ""),
    "pull.branch": (branches, ""),
    "push.branch": (branches, ""),
    "push.tag": (tags, ""),
    "tag.name": (tags, ""),
    "remote": (remotes, ""),
    "remote.name": (remotes, ""),
    "remote.url": (nothing, "dir"),
    "clone.url": (nothing, "dir"),
    "base": (nothing, "dir"),
    "model": (nothing, "dir"),
    "hparams": (hyperparameters, "file"),
    "corpus": (corpora, "file"),
    "dtype": (dtypes, ""),
    **dict.fromkeys(("edits", "health", "prompts", "source"), (nothing, "file")),
}
"""What a parameter takes, by its name: the values, and "file" or "dir" where the shell goes on with those."""


class _Completing(click.types.StringParamType):
    """Text that a shell can complete."""

    def __init__(self, values: _Completer, kind: str) -> None:
        self._values, self._kind = values, kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del param
        from click.shell_completion import CompletionItem

        try:
            found = [
                CompletionItem(value, help=about or None)
                for value, about in self._values(_start(ctx), incomplete)
                if value.startswith(incomplete) and _LITERAL.fullmatch(value)
            ]
        except (
            Exception
        ):  # no repository, a damaged or locked repository, a file that is none: a Tab is no place to say so
            found = []
        return found or ([CompletionItem(incomplete, type=self._kind)] if self._kind else [])


def _start(ctx: click.Context) -> Path:
    """Where the command will run: each -C of the line, the outermost first."""
    given: list[Path] = []
    context: click.Context | None = ctx
    while context is not None:
        given += [context.params[name] for name in ("chdir", "directory") if isinstance(context.params.get(name), Path)]
        context = context.parent
    return Path().joinpath(*reversed(given))


def completing(command: click.Command) -> click.Command:
    """The command, its plain texts completed as `_TAKES` says."""
    for parameter in command.params:
        found = _TAKES.get(f"{command.name}.{parameter.name}") or _TAKES.get(parameter.name or "")
        if found is not None and type(parameter.type) is click.types.StringParamType:
            parameter.type = _Completing(*found)
    return command
