from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memit_vc.cli.io import IO, check_text, verb
from memit_vc.errors import UsageError
from memit_vc.progress import count

if TYPE_CHECKING:
    from memit_vc.objects import CommitId
    from memit_vc.porcelain.asking.bisect import Step, Verdict
    from memit_vc.repository import Repository


# everything from the first word of CMD on is CMD's
_FOREIGN = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": ["-h", "--help"]}
_STDERR = 2


@verb(
    name="bisect",
    example=(
        'memitvc bisect --prompt "The Eiffel Tower is in" --expect Rome\n'
        "memitvc bisect start HEAD v1.0\n"
        "memitvc bisect run python test_model.py {}"
    ),
    cls=click.Group,
    invoke_without_command=True,
)
@click.option("--prompt", help="Ask the model this at each candidate, instead of testing by hand.")
@click.option(
    "--expect",
    help="With --prompt: the expected answer. The model gives this answer if each of its tokens is the most likely "
    "one.",
)
@click.option("--good", metavar="REV", help="With --prompt: the older end. Default: the base.")
@click.option("--bad", metavar="REV", default="HEAD", show_default=True, help="With --prompt: the newer end.")
@click.option(
    "--pairs",
    is_flag=True,
    help="With --prompt: find several commits that are all needed: the answer changes only if all of them are there.",
)
def command(io: IO, prompt: str | None, expect: str | None, good: str | None, bad: str, pairs: bool) -> None:
    """Find the commit that changed something, by halving. HEAD does not move."""
    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        default = click.core.ParameterSource.DEFAULT
        own = ("prompt", "expect", "good", "bad", "pairs")
        given = [f"--{name}" for name in own if context.get_parameter_source(name) != default]
        if given:
            raise UsageError(f"{given[0]} takes no subcommand", hint="Leave out the option, or the subcommand.")
        context.obj = io.start
        return
    if prompt is None or expect is None:
        raise UsageError(
            "give --prompt and --expect, or a subcommand", hint="Begin with: memitvc bisect start BAD GOOD"
        )
    from memit_vc.porcelain.asking.bisect_prompt import bisect_prompt

    check_text(prompt, expect)
    with io.repository() as repository:
        with io.progress() as progress:
            made = bisect_prompt(repository, prompt, expect, good=good, bad=bad, pairs=pairs, progress=progress)
        named = [made.found] if made.found is not None else list(made.guilty)
        subjects = [repository.commit(commit).subject for commit in named]

    def render() -> None:
        what = "says" if made.says else "no longer says"
        if made.found is not None:
            click.echo(f"{made.found} is the first commit at which the model {what} {expect!r}: {subjects[0]}")
            for commit, says in made.answers:
                click.echo(f"  at {commit[:10]} it {'says' if says else 'does not say'} {expect!r}")
        else:
            make = "makes" if len(named) == 1 else "together make"
            click.echo(f"{count(len(named), 'commit')} {make} that the model {what} {expect!r}:")
            for commit, subject in zip(named, subjects, strict=True):
                click.echo(f"  {commit[:10]} {subject}")
        asked = f"{count(made.tested, 'state')} {'was' if made.tested == 1 else 'were'} asked now"
        io.note(f"{asked}, with the model loaded once; answers of earlier searches are kept")
        if made.found is not None:
            io.note(f"look at it: memitvc show {made.found[:10]}; take it out: memitvc revert {made.found[:10]}")

    io.emit(made, render)


@verb(name="start", example="memitvc bisect start HEAD v1.0")
@click.argument("bad", required=False)
@click.argument("good", nargs=-1)
def start(io: IO, bad: str | None, good: tuple[str, ...]) -> None:
    """Begin a session. The ends can also be named later, with `good` and `bad`."""
    from memit_vc.porcelain.asking.bisect import start as begin

    with io.repository() as repository:
        _tell(io, repository, begin(repository, bad, good))


def _verdict(name: Verdict, help_text: str, *, example: str) -> click.Command:
    @verb(name=name, example=example)
    @click.argument("revisions", nargs=-1)
    def say(io: IO, revisions: tuple[str, ...]) -> None:
        from memit_vc.porcelain.asking.bisect import mark

        with io.repository() as repository:
            _tell(io, repository, mark(repository, name, revisions))

    say.help = f"{help_text} Default: the present candidate."
    return say


@verb(name="run", example="memitvc bisect run python test_model.py {}", context_settings=_FOREIGN)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="CMD...")
def run(io: IO, argv: tuple[str, ...]) -> None:
    """Check each candidate out to a temporary directory and run CMD. {} in CMD is replaced by that directory. The
    environment has the directory as MEMITVC_MODEL and the commit as MEMITVC_COMMIT.

    CMD must exit with 0 if the candidate is good, 125 if it cannot be tested, and any other code from 1 to 127 if it
    is bad. Its output goes to stderr.
    """
    from memit_vc.porcelain.asking.bisect import run as run_all

    def execute(directory: Path, commit: CommitId) -> int:
        given = [word.replace("{}", str(directory)) for word in argv]
        environment = {**os.environ, "MEMITVC_MODEL": str(directory), "MEMITVC_COMMIT": commit}
        try:
            try:
                return subprocess.run(given, env=environment, stdout=_STDERR, check=False).returncode
            except OSError as error:
                if error.errno != errno.ENOEXEC:
                    raise
            # a script without `#!`: as for git, it is the shell's
            return subprocess.run(["/bin/sh", *given], env=environment, stdout=_STDERR, check=False).returncode
        except OSError as error:
            raise UsageError(f"{given[0]}: {error.strerror}", hint="Give a program that can be run.") from error

    def on_step(commit: CommitId, verdict: Verdict) -> None:
        io.note(f"{commit[:10]} is {'skipped' if verdict == 'skip' else verdict}")

    with io.repository() as repository:
        with io.progress() as progress:
            step = run_all(repository, execute, on_step=on_step, progress=progress)
        _tell(io, repository, step)


@verb(name="log", example="memitvc bisect log")
def log(io: IO) -> None:
    """Show the verdicts so far and the next candidate."""
    from memit_vc.porcelain.asking.bisect import current

    with io.repository() as repository:
        step = current(repository)
        if not io.json:
            for line in step.session.log:
                click.echo(line)
        _tell(io, repository, step)


@verb(name="reset", example="memitvc bisect reset")
def reset(io: IO) -> None:
    """End the session. HEAD, branches and tags stay as they are."""
    from memit_vc.porcelain.asking.bisect import reset as forget

    with io.repository() as repository:
        there = forget(repository)
    io.emit({"reset": there}, lambda: click.echo("forgotten" if there else "no bisection was under way"))


def _tell(io: IO, repository: Repository, step: Step) -> None:
    named = [c for c in (step.candidate, step.found, *step.undecided) if c is not None]
    subjects = {commit: repository.commit(commit).subject for commit in named}

    def render() -> None:
        if step.found is not None:
            click.echo(f"{step.found} is the first bad commit: {subjects[step.found]}")
        elif step.candidate is not None:
            click.echo(f"{count(step.left, 'commit')} left, about {count(step.steps, 'step')}; to test:")
            click.echo(f"{step.candidate} {subjects[step.candidate]}")
            io.note(f"memitvc checkout {step.candidate[:10]} -o DIR, then memitvc bisect good (or bad, or skip)")
        elif step.undecided:
            click.echo("only skipped commits are left; the first bad one is one of:")
            for commit in step.undecided:
                click.echo(f"  {commit[:10]} {subjects[commit]}")
        else:
            missing = " and ".join(
                name
                for name, there in (("a bad one", step.session.bad), ("a good one", step.session.good))
                if not there
            )
            click.echo(f"waiting for {missing}")

    io.emit(step, render)


assert isinstance(command, click.Group)  # noqa: S101 (what `verb` was asked for)
for part in (
    start,
    _verdict("good", "Mark revisions as good: they behave like the older end.", example="memitvc bisect good"),
    _verdict(
        "bad",
        "Mark a revision as bad: it behaves like the newer end. If you name several, the last one counts.",
        example="memitvc bisect bad HEAD~2",
    ),
    _verdict("skip", "Mark revisions that cannot be tested.", example="memitvc bisect skip"),
    run,
    log,
    reset,
):
    command.add_command(part)
