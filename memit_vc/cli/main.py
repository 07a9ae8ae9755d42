"""The entry point: the list of commands, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import errno
import importlib
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import click

from memit_vc import __version__
from memit_vc.cli.io import JSON
from memit_vc.cli.streams import Stopped, open_streams
from memit_vc.cli.terminal import OutputLostError, shown
from memit_vc.errors import MemitVCError
from memit_vc.foreign.text import indented

# name: (module, what `memitvc --help` says of it), so that help and shell completion load no command
GROUPS = {
    "Start": {
        "demo": ("demo", "Edit a small real model twice and take both edits back."),
        "init": ("init", "Start a repository on a base model."),
        "clone": ("clone", "Make a repository of a remote and its base."),
    },
    "Edit": {
        "stats": ("stats", "Compute the statistics that an edit needs."),
        "tune": ("tune", "Find layers and λ for a model by measurement."),
        "phrase": ("phrase", "Add further phrasings from a chat model or the phrase book."),
        "commit": ("commit", "Edit facts into the model and record them as a commit."),
    },
    "Look": {
        "status": ("status", "Show where HEAD is, the statistics and the kept patches."),
        "log": ("log", "Show the history."),
        "show": ("show", "Show one commit: its facts, scores and provenance."),
        "facts": ("facts", "List the facts that are in the model now."),
        "diff": ("diff", "Show in which facts two revisions differ."),
        "ask": ("ask", "Show what the model says, at several revisions side by side."),
        "report": ("report", "Write history, facts and scores as one page for a browser."),
        "web": ("web", "Show the report live, with a playground and buttons."),
        "eval": ("eval", "Measure the scores of a revision."),
        "blame": ("blame", "Rank the live edits by what they do to a prompt."),
        "bisect": ("bisect", "Find the commit that changed something, by halving."),
        "reproduce": ("reproduce", "Compute a commit again and compare."),
    },
    "Change history": {
        "revert": ("revert", "Take commits out of the model, exactly."),
        "switch": ("switch", "Move HEAD to a branch or a commit."),
        "branch": ("branch", "List, make, rename or delete branches."),
        "tag": ("tag", "List, make or delete tags."),
        "merge": ("merge", "Join another branch's facts with this one's."),
        "cherry-pick": ("cherry_pick", "Make the changes of other commits here, too."),
        "squash": ("squash", "Make one commit of many, or one patch of all live facts."),
        "rebase": ("rebase", "Compute a branch's batches again on another tip."),
        "undo": ("undo", "Take back the last command that changed a branch, a tag, HEAD or a remote-tracking branch."),
        "redo": ("redo", "Take the last undo back."),
        "op": ("op", "The log of operations, and the way back to any point of it."),
    },
    "Share": {
        "remote": ("remote", "List, add or remove the places to push to and pull from."),
        "push": ("push", "Publish a branch to a remote."),
        "fetch": ("fetch", "Bring the commits of a remote here; branches stay."),
        "pull": ("pull", "Fetch, and move the current branch forward."),
        "import": ("import_", "Take in the commits of a patch file, or an adapter."),
    },
    "Ship": {
        "checkout": ("checkout", "Write the model of a revision to a directory."),
        "verify": ("verify", "Prove which state a model directory is."),
        "sign": ("sign", "Sign a state, so that others can check who made it."),
        "export": ("export", "Write a state as an adapter, a checkpoint, a GGUF, a patch file or a bill of materials."),
    },
    "Maintain": {
        "fsck": ("fsck", "Check every object and row of the repository."),
        "gc": ("gc", "Remove what nothing refers to any more."),
        "upgrade": ("upgrade", "Bring an older repository's database to this version's format."),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}


class LazyGroup(click.Group):
    """Loads a command's module when the command is called, never for the list of commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"memit_vc.cli.{COMMANDS[cmd_name][0].replace('-', '_')}")
        found: click.Command = module.command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name == "help":
            if len(args) == 1:
                click.echo(ctx.get_help())
                ctx.exit()
            return self.resolve_command(ctx, [*args[1:], "--help"])
        if name and not name.startswith("-") and name not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"no such command: {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:{width}}", text) for name, (_, text) in group.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-C", "directory", type=click.Path(path_type=Path), metavar="DIRECTORY", help="Run as if started in DIRECTORY."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.version_option(__version__, prog_name="memitvc")
@click.pass_context
def cli(ctx: click.Context, directory: Path | None, as_json: bool) -> None:
    """Version control for the facts inside a language model."""
    ctx.obj = directory or Path()
    ctx.meta[JSON] = as_json


def main(arguments: Sequence[str] | None = None, *, guard: AbstractContextManager[None] | None = None) -> int:
    """Run the command line within `guard`; returns the exit code (`errors.py` lists them)."""
    open_streams()
    with redirect_stdout(shown(sys.stdout)), redirect_stderr(shown(sys.stderr, bars=True)):
        return _run(arguments, guard or nullcontext())


def _run(arguments: Sequence[str] | None, guard: AbstractContextManager[None]) -> int:
    argv = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in argv
    try:
        with guard:
            # main() in standalone mode would exit by itself with click's own codes
            result: Any = cli.main(argv, prog_name="memitvc", standalone_mode=False)
    except MemitVCError as error:
        _report(error.message, error.hint, error.exit_code, as_json, conflicts=getattr(error, "conflicts", ()))
        return error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        return _interrupted(error)
    except OutputLostError as error:
        return _lost(error.error, as_json)
    except click.exceptions.NoArgsIsHelpError as error:  # its message is the help
        click.echo(error.ctx.get_help())
        return 0
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = None if context is None else f"`{context.command_path} --help` says what it takes."
        _report(error.format_message(), hint, error.exit_code, as_json)
        return error.exit_code
    except UnicodeEncodeError as error:
        wrong = error.object[error.start : error.end]
        _report(
            f"{wrong!r}, in an argument or in the name of a directory, is not UTF-8 text",
            "Use a name in UTF-8; a directory can be renamed.",
            2,
            as_json,
        )
        return 2
    except MemoryError:
        _report(
            "there is not enough memory for this",
            "Close other programs, or use a machine with more memory.",
            1,
            as_json,
        )
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _report(f"{where}{error.strerror or error}", "`memitvc op log` shows whether anything was done.", 1, as_json)
        return 1
    return result if isinstance(result, int) else 0


def _interrupted(error: BaseException) -> int:
    number = error.number if isinstance(error, Stopped) else signal.SIGINT
    how = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    click.echo(f"{how}: either everything was done or nothing; check with `memitvc op log`", err=True)
    cause: BaseException | None = error
    while cause is not None:  # what the work itself was stopped by may lie below click's own and the guard's
        for note in getattr(cause, "__notes__", ()):
            click.echo(note, err=True)
        cause = cause.__cause__
    return 128 + number


def _lost(error: OSError, as_json: bool) -> int:
    """The exit code where the result could not be written. Who closes a pipe early, as `head` does, knows it."""
    piped = error.errno == errno.EPIPE
    code = 128 + signal.SIGPIPE if piped else 1
    if as_json or not piped:
        message = f"the result could not be written to standard output: {error.strerror}; what was done stands"
        _report(message, "`memitvc op log` shows whether the history changed: do not repeat that.", code, as_json)
    return code


def _report(message: str, hint: str | None, code: int, as_json: bool, conflicts: Sequence[object] = ()) -> None:
    if as_json:
        record: dict[str, object] = {"message": message, "hint": hint, "exit_code": code}
        record |= {"conflicts": list(conflicts)} if conflicts else {}
        click.echo(json.dumps({"error": record}), err=True)
        return
    click.echo(f"{click.style('error:', fg='red', bold=True)} {indented(message)}", err=True)
    if hint:
        click.echo(f"{click.style('hint:', fg='yellow')} {indented(hint)}", err=True)
