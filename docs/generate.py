"""Writes docs/commands.md from the commands themselves: `python docs/generate.py`, or `make docs`.

Everything comes from click's parameters, not from its help pages, so that neither the width of a terminal nor click's
version changes a line. What click does not know, the exit codes, is here.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from memit_vc.cli.main import COMMANDS, cli

PAGE = Path(__file__).parent / "commands.md"
_COMMON = {"chdir", "as_json", "help"}

EXIT_CODES = {
    0: "done",
    1: "an error; the message says what, where and what to do",
    2: "wrong usage",
    10: "there is no repository here or above",
    11: "a branch or remote moved meanwhile, or another command holds the repository",
    12: "a stored object or a file is damaged, or the base is not the one that the history names",
    13: "two facts contradict each other: choose with `--ours`, `--theirs` or `--keep-both`; "
    "or a fact belongs to a patch that cannot be split (see [patch](glossary.md#history))",
    14: "a remote or the Hub refused, failed or is out of reach",
    15: "a check failed: a directory does not hold the expected model, or a commit cannot be computed again as it was",
    16: "a score breaks a bound of `[policy]` or `--require`; the branch did not move (`pull` keeps what it fetched)",
    129: "the terminal was closed (SIGHUP): either everything was done or nothing",
    130: "interrupted: either everything was done or nothing",
    141: "the reader of standard output was gone; what was done stands",
    143: "stopped by SIGTERM: either everything was done or nothing",
}
_CONTRADICTS = "a fact contradicts a live one"
_HUB = "something must be read from the Hub, and the Hub is out of reach or lacks it"
_REMOTE = "the remote refused or failed, or what it holds breaks the format"
SPECIAL: dict[str, dict[int, str]] = {
    "init": {14: _HUB},
    "stats": {14: _HUB},
    "commit": {
        11: "the branch moved while the batch was computed; the patch is kept",
        13: _CONTRADICTS,
        14: _HUB,
    },
    "revert": {13: "a fact that comes back contradicts a live one, or the patch of the fact of --fact cannot be split"},
    "merge": {13: "facts of the two sides contradict each other"},
    "cherry-pick": {13: _CONTRADICTS},
    "import": {12: "the file is damaged, or belongs to another base", 13: _CONTRADICTS},
    "rebase": {
        11: "the branch moved meanwhile",
        13: "a fact contradicts one that is live at ONTO, or with --base another live fact",
        14: _HUB,
    },
    "reproduce": {15: "the patch comes out differently"},
    "verify": {15: "the directory is not a state of this repository, not the expected one, or not what was signed"},
    "push": {11: "the remote's branch has commits that are not here: pull first", 14: _REMOTE},
    "fetch": {14: _REMOTE},
    "pull": {11: "both sides have new commits: merge them", 14: _REMOTE},
    "clone": {12: "the base is another model, or the history is damaged", 14: _REMOTE},
    "fsck": {12: "something is wrong"},
    "demo": {14: _HUB},
}
"""What an exit code of `EXIT_CODES` means for one command, where that is more than the table says."""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and subcommand by its full name, in the order of `memitvc --help`."""
    context = click.Context(cli, info_name="memitvc")
    for name in COMMANDS:
        found = cli.get_command(context, name)
        if found is None:
            raise LookupError(name)
        yield name, found
        if isinstance(found, click.Group):
            for sub in found.commands.values():
                yield f"{name} {sub.name}", sub


def page() -> str:
    """The whole of docs/commands.md."""
    rows = [f"| [`{name}`](#{_anchor(name)}) | {text} |" for name, (_, text) in COMMANDS.items()]
    codes = [f"| {code} | {text} |" for code, text in EXIT_CODES.items()]
    parts = [
        "<!-- Written by docs/generate.py from the commands; `make docs` writes it again. -->",
        "# Commands",
        "REV is `HEAD`, a branch, a remote's branch (`origin/main`), a tag, an id or the beginning of an id. "
        "`~n` or `^n` may follow, as in git. A..B is what B has and A does not have.",
        "\n".join(["| command | what it does |", "| --- | --- |", *rows]),
        "## All commands",
        "Every command takes these options:",
        "\n".join(
            [
                "| option | meaning |",
                "| --- | --- |",
                "| `-C DIRECTORY` | Run as if started in DIRECTORY. |",
                "| `--json` | Print the result as JSON; an error too, on stderr. |",
                "| `-h`, `--help` | Show the command's help and exit. |",
            ]
        ),
        "Results go to stdout; notes, hints and progress go to stderr. The exit codes are:",
        "\n".join(["| code | meaning |", "| --- | --- |", *codes]),
    ]
    parts += [section(name, command) for name, command in commands()]
    return "\n\n".join(parts) + "\n"


def section(name: str, command: click.Command) -> str:
    """One command: usage, description, arguments, options, example, exit codes."""
    prose, examples = _described(command)
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in _COMMON]
    usage = ["memitvc", *name.split(), "[OPTIONS]", *map(argument_name, arguments)]
    if isinstance(command, click.Group):
        usage.append("[COMMAND]" if command.invoke_without_command else "COMMAND")
    parts = [f"{'###' if ' ' in name else '##'} {name}", f"```console\n$ {' '.join(usage)}\n```", *prose]
    if arguments:
        rows = [f"| `{argument_name(each)}` | {_count(each)} |" for each in arguments]
        parts.append("\n".join(["| argument | |", "| --- | --- |", *rows]))
    if options:
        rows = [f"| {option_names(each)} | {option_help(each)} |" for each in options]
        parts.append("\n".join(["| option | meaning |", "| --- | --- |", *rows]))
    shown = "\n".join(f"$ {line}" for line in examples)
    parts.append(f"Example:\n\n```console\n{shown}\n```")
    special = SPECIAL.get(name, {})
    if special:
        parts.append("\n".join(f"- Exit code {code}: {text}." for code, text in special.items()))
    return "\n\n".join(parts)


def argument_name(argument: click.Argument) -> str:
    """As in a usage line: brackets where it may be left out, dots where there may be several."""
    if argument.metavar is not None:
        return argument.metavar
    choices = argument.type.choices if isinstance(argument.type, click.Choice) else None
    name = "|".join(map(str, choices)) if choices else (argument.name or "").upper()
    return (name if argument.required else f"[{name}]") + ("..." if argument.nargs == -1 else "")


def option_names(option: click.Option) -> str:
    """`-m`, `--message TEXT`: the short ones first."""
    takes = "" if option.is_flag else f" {_value(option)}"
    ways = sorted([*option.opts, *option.secondary_opts], key=lambda way: (way.startswith("--"), 0))
    names = [f"`{way}`" for way in ways[:-1]] + [f"`{ways[-1]}{takes}`"]
    return ", ".join(names)


def option_help(option: click.Option) -> str:
    """The help, with the range and the default where click would show them."""
    notes = [*(["required"] if option.required else []), *_range(option.type)]
    if option.show_default and option.default is not None:
        notes.append(f"default {option.default}")
    text = " ".join((option.help or "").split()).replace("|", "\\|")
    return f"{text} ({', '.join(notes)})" if notes else text


def _value(option: click.Option) -> str:
    if option.metavar is not None:
        return option.metavar.replace("|", "\\|")
    if isinstance(option.type, click.Choice):
        return r"\|".join(map(str, option.type.choices))
    kinds = ((click.types.IntParamType, "N"), (click.types.FloatParamType, "NUMBER"), (click.Path, "PATH"))
    return next((name for kind, name in kinds if isinstance(option.type, kind)), "TEXT")


def _range(kind: object) -> Iterator[str]:
    if isinstance(kind, (click.IntRange, click.FloatRange)):
        if kind.min is not None:
            yield f"{'more than' if kind.min_open else 'at least'} {kind.min}"
        if kind.max is not None:
            yield f"{'less than' if kind.max_open else 'at most'} {kind.max}"


def _count(argument: click.Argument) -> str:
    several = argument.nargs == -1
    if argument.required:
        return "one or more" if several else "required"
    return "any number" if several else "optional"


def _described(command: click.Command) -> tuple[list[str], list[str]]:
    """The paragraphs of the help, and the lines of its example."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    # a plus in front would be a list
    prose = [re.sub(r"^([+-]) ", r"\\\1 ", " ".join(paragraph.split())) for paragraph in paragraphs]
    epilog = inspect.cleandoc(command.epilog or "")
    return prose, [line.strip() for line in epilog.splitlines() if line.strip().startswith("memitvc ")]


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def main(arguments: Sequence[str]) -> int:
    """Write the page; with --check only say (by exit code 1) that it is not current."""
    text = page()
    if "--check" in arguments:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
