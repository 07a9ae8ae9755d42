"""What every command shares: `-C`, `--json`, the repository it works in, and how results and progress are shown.

Data goes to stdout; notes, hints and progress bars go to stderr.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from memit_vc.cli.completion import completing
from memit_vc.cli.remaining import Remaining
from memit_vc.cli.table import table
from memit_vc.cli.terminal import escaped_json
from memit_vc.errors import UsageError
from memit_vc.foreign.text import indented, is_unicode, one_line
from memit_vc.objects import Fact, finite, short
from memit_vc.progress import Progress, count

if TYPE_CHECKING:
    from memit_vc.edits import EditBatch
    from memit_vc.porcelain.record import Outcome
    from memit_vc.repository import Repository


JSON = "memitvc.as_json"
"""Key of click's meta: --json stood before the command."""
_F = TypeVar("_F", bound=Callable[..., Any])
_LINE_EVERY = 15.0
"""Seconds between lines of progress if there is no terminal."""
_MANY = 1_000_000
"""From this total on a share is shown: what is counted so far is bytes."""
_SHOWN = 5
"""Contradictions that are shown once they are settled; --json has all."""
_BAR_AFTER = 1.0
"""Seconds before a progress bar shows: what is over sooner needs none."""


def check_text(*given: str | None) -> None:
    """UsageError for a prompt, an answer or a message whose bytes on the command line are not UTF-8."""
    for text in given:
        if text is not None and not is_unicode(text):
            raise UsageError(f"{text!r} is not text in UTF-8", hint="Type it in UTF-8, or set the terminal to it.")


def _is_utf8(stream: TextIO) -> bool:
    return (stream.encoding or "utf-8").lower().replace("-", "").replace("_", "") == "utf8"


class IO:
    """The invocation: what `-C` named (the command runs inside of it), and whether it speaks JSON."""

    def __init__(self, start: Path, as_json: bool) -> None:
        self.start = start
        self.json = as_json

    def repository(self, *, damaged: bool = False) -> Repository:
        """The repository of the working directory or of a parent; a context manager. `damaged` as for its `open`."""
        from memit_vc.repository import Repository

        return Repository.open(Path(), damaged=damaged)

    def edits(self, source: str) -> EditBatch:
        """The facts of a file, or of standard input for "-"; what was assumed or ignored is said. EditFileError."""
        from memit_vc.edits import read_edits

        batch = read_edits(source)
        for note in batch.notes:
            self.note(note)
        return batch

    def emit(self, value: object, render: Callable[[], None], **more: object) -> None:
        """The result, with `more` fields if there are any: as one JSON document, or drawn by `render`."""
        if self.json:
            document = {**_encoded(value), **_encoded(more)} if more else _encoded(value)
            click.echo(escaped_json(json.dumps(document, ensure_ascii=not _is_utf8(sys.stdout), indent=2)))
        else:
            render()

    def outcome(self, made: Outcome, text: str, details: Callable[[], None] = lambda: None, **more: object) -> None:
        """The result of a verb that changes the history: "[branch id] text", then `details`; its notes on stderr."""
        for note in made.notes:
            self.note(note)
        for warning in made.warnings:
            self.warn(warning)

        def render() -> None:
            click.echo(f"[{made.branch or 'detached HEAD'} {short(made.id)}] {indented(text)}")
            if made.contradictions:
                lines = [each.line() for each in made.contradictions[:_SHOWN]]
                more = ["  …"] if len(made.contradictions) > _SHOWN else []
                self.note("\n".join([f"{count(len(made.contradictions), 'contradiction')} settled:", *lines, *more]))
            details()

        self.emit(made, render, **more)

    def line(self, text: str) -> None:
        """One line of a result that names a path, a remote or another text of strangers: it stays one line."""
        click.echo(one_line(text))

    def note(self, text: str) -> None:
        """Something to know that is not the result."""
        click.echo(indented(text), err=True)

    def warn(self, text: str) -> None:
        click.echo(f"{click.style('warning:', fg='yellow')} {indented(text)}", err=True)

    def records(self, text: str) -> None:
        """Records that another program reads, to the byte and in UTF-8; a terminal gets them neutral."""
        plain = sys.stdout if sys.stdout.isatty() else getattr(sys.stdout, "plain", sys.stdout)
        click.echo(text if _is_utf8(plain) else text.encode(), nl=False, file=plain)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
        """A plain table on stdout: aligned columns, never cut; piped output is not wrapped to a terminal's width."""
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        names, *lines = table(columns, [[one_line(cell) for cell in row] for row in rows], right=right, width=width)
        click.echo("\n".join([click.style(names, bold=True), *lines]))

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A callback that draws bars on stderr while the block lasts; now and then a line where that is no terminal.
        Both say how many minutes are left. An interrupt learns what the stage leaves, as a note.
        """
        left = Remaining()
        drawn: AbstractContextManager[Progress]
        drawn = self._bars(left) if sys.stderr.isatty() else nullcontext(_lines(self, left))
        try:
            with drawn as report:
                yield report
        except KeyboardInterrupt as error:
            if left.kept:
                vars(error).setdefault("__notes__", []).append(left.kept)
            raise

    @contextmanager
    def _bars(self, left: Remaining) -> Iterator[Progress]:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
            transient=True,
        )
        tasks: dict[str, Any] = {}
        began = time.monotonic()

        def report(stage: str, done: int, total: int) -> None:
            rest = left.report(stage, done, total)
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None, left=rest)
            bars.update(tasks[stage], completed=done, total=total or None, left=rest)
            # of what has no known length there may be no second report
            if not bars.live.is_started and (not total or time.monotonic() - began > _BAR_AFTER):
                bars.start()

        try:
            yield report
        finally:
            if bars.live.is_started:
                bars.stop()


def _encoded(value: Any) -> Any:
    """Any result as JSON: values with `to_json` say it themselves, of other dataclasses each field counts."""
    if value is None or isinstance(value, str | int | float):
        return finite(value)
    if isinstance(value, Fact):
        return {**value.to_json(), "id": value.id}
    if hasattr(value, "to_json"):
        return _encoded(value.to_json())
    if dataclasses.is_dataclass(value):
        return {field.name: _encoded(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _encoded(each) for name, each in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [_encoded(each) for each in (sorted(value) if isinstance(value, frozenset) else value)]


def _lines(io: IO, left: Remaining) -> Progress:
    """For logs and pipes: one line for each quarter of a minute that a command takes."""
    last = time.monotonic()

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last
        rest = left.report(stage, done, total)
        if time.monotonic() - last >= _LINE_EVERY:
            last = time.monotonic()
            so_far = f"{done / total:.0%}" if total >= _MANY else f"{done} of {total}"
            io.note((f"{stage}: {so_far}" if total else stage) + (f", {rest}" if rest else ""))

    return report


@contextmanager
def _inside(directory: Path) -> Iterator[None]:
    """The working directory for the length of the block, as `-C` promises: each relative path of a command line, and of
    a program that it starts, means the same directory.
    """
    if directory == Path():
        _check_present()
        yield
        return
    if not directory.is_absolute():
        _check_present()
    before = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))  # a directory that is gone has no name to come back to
    try:
        try:
            os.chdir(directory)
        except OSError as error:
            raise UsageError(
                f"-C {directory}: {error.strerror}",
                hint="Name a directory that exists; `memitvc init BASE DIR` makes one.",
            ) from error
        try:
            yield
        finally:
            os.fchdir(before)
    finally:
        os.close(before)


def _check_present() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UsageError(
            "the current directory is gone", hint="Change to one that exists, or name one: `memitvc -C /DIRECTORY …`."
        ) from error


class FiniteRange(click.FloatRange):
    """A number of a range that is one: "nan" is greater than nothing and less than nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Verb(click.Command):
    """A command whose flags for one setting (--ours, --theirs) exclude each other: click would take the last one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        first: dict[str, click.Parameter] = {}
        for parameter in given:
            other = first.setdefault(parameter.name or "", parameter)
            if other is not parameter and not ctx.resilient_parsing:  # as it is while a shell completes the line
                raise click.UsageError(f"{other.opts[0]} and {parameter.opts[0]} do not go together", ctx)
        return super().parse_args(ctx, args)


def verb(*, example: str, **attributes: Any) -> Callable[[_F], click.Command]:
    """Make a function `f(io, **options)` a click command with `-C` and `--json`; its help ends with `example`, command
    lines as they are typed.
    """
    lines = "\n".join(f"  {line}" for line in example.splitlines())
    attributes["epilog"] = f"\b\nFor example:\n{lines}"  # \b: click leaves these lines as they are

    def decorate(function: _F) -> click.Command:
        @click.pass_context
        @functools.wraps(function)
        def run(ctx: click.Context, /, chdir: Path | None, as_json: bool, **options: Any) -> Any:
            start: Path = ctx.find_object(Path) or Path()
            start = start / chdir if chdir else start
            message = options.get("message")
            check_text(message)  # before a computation that could not be committed
            if message is not None and not message.strip():
                raise UsageError("the message is empty", hint="Give a message with -m, or leave -m out.")
            as_json = ctx.meta[JSON] = as_json or ctx.meta.get(JSON, False)  # a group's --json is its subcommands'
            with _inside(start):
                return function(IO(start, as_json), **options)

        wrapped: Any = run
        wrapped = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(wrapped)
        wrapped = click.option(
            "-C", "chdir", type=click.Path(path_type=Path), metavar="DIRECTORY", help="Run as if started in DIRECTORY."
        )(wrapped)
        attributes.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        attributes.setdefault("cls", Verb)
        made: click.Command = click.command(**attributes)(wrapped)
        return completing(made)

    return decorate
