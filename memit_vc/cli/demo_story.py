"""The demo: the real commands, one after the other, and a table of what the model answers at each point."""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import click

from memit_vc.cli.demo_clock import PARTS, Clock
from memit_vc.cli.io import IO
from memit_vc.errors import MemitVCError, UsageError
from memit_vc.foreign.text import one_line
from memit_vc.objects import Fact, JsonValue
from memit_vc.progress import duration

_POINTS = ("base", "after_both", "first_reverted")


def tell(io: IO, *, keep: Path | None, model: Path | None) -> None:
    """Run the demo in `keep` (a new directory), or in a temporary one that is removed afterwards.

    As JSON the story goes to stderr, and what came of each command, the answers and the times are one document.
    """
    if model is not None and not model.is_dir():
        raise UsageError(f"--model {model}: is not a directory", hint="Give a directory with a Hugging Face model.")
    if keep is not None:
        where = keep.absolute()
        if where.exists() and (not where.is_dir() or any(where.iterdir())):
            raise UsageError(f"{where} is not empty", hint="Name a new directory for --keep.")
        where.mkdir(parents=True, exist_ok=True)
        story = _Story(io, where)
        story.tell(model)
        story.echo("\n" + one_line(f"The repository is in {where}; try `memitvc -C {shlex.quote(str(where))} log`."))
    else:
        with tempfile.TemporaryDirectory(prefix="memitvc-demo-") as name:
            story = _Story(io, Path(name))
            story.tell(model)
        story.echo("\nThe demo's repository was temporary; `memitvc demo --keep DIR` keeps it to play with.")
    if io.json:
        io.emit({**story.record, "kept": None if keep is None else str(where)}, lambda: None)


class _Story:
    """What is told so far, and for JSON what came of it."""

    def __init__(self, io: IO, where: Path) -> None:
        self.io, self.where = io, where
        self.record: dict[str, JsonValue] = {}
        self._steps: list[JsonValue] = []
        self._clock = Clock()
        """From the model on."""

    def echo(self, text: str) -> None:
        click.echo(text, err=self.io.json)

    def tell(self, model: Path | None) -> None:
        from memit_vc.cli.demo_facts import STORY
        from memit_vc.edits import write_records

        began = time.monotonic()
        base, source = (model.resolve(), str(model)) if model is not None else self._obtain()
        obtained = time.monotonic()
        self._clock = Clock()
        first, second = STORY
        for name, batch in (("first.json", first), ("second.json", second)):
            (self.where / name).write_text(write_records(batch, format="json"), encoding="utf-8")

        self._say("init", "A repository on a base model: every tensor's hash is recorded.")
        self._run("init", str(base), "--corpus", "shipped")
        self._say("first commit", "Five facts become one commit. On the way, once, statistics of the text that ships.")
        self._run("commit", "first.json", "-m", "Five facts about the world")
        self._say("second commit", "Three more, on top.")
        self._run("commit", "second.json", "-m", "Three more facts")
        self._run("log", "--graph")
        self._run("show", "HEAD")
        self._run("facts")
        self._say(
            "first revert", "Take the first commit out of the middle of the history. No model is loaded for that."
        )
        self._run("revert", "HEAD~1")
        self._run("log", "--oneline")
        self._say("checkout", "The model as it is now, for plain transformers; and the proof of what it is.")
        self._run("checkout", "HEAD", "-o", "model")
        reverted = self._run("verify", "model")
        self._say("answers", "Ask the model about all eight facts, at three points of the history.")
        self._answers([*first, *second], first=len(first))
        self._say("second revert", "Take the second commit out as well: nothing is left, bit for bit.")
        self._run("revert", "HEAD~1")
        self._run("checkout", "HEAD", "--in-place", "model")
        emptied = self._run("verify", "model", "--expect", "HEAD~4")
        self._run("fsck")
        done = time.monotonic()
        self.echo(f"\nmodel obtained in {obtained - began:.0f} s, the story took {done - obtained:.0f} s")
        self.record |= {
            "model": {"directory": str(base), "source": source},
            "steps": self._steps,
            "verified": [reverted, emptied],
            "seconds": {"model": obtained - began, "story": done - obtained},
        }

    def _obtain(self) -> tuple[Path, str]:
        from memit_vc.cli.demo_model import demo_model
        from memit_vc.config import user_cache

        self.echo(f"First the model; then the story takes about {duration(sum(PARTS.values()))} on two quiet cores.")
        with self.io.progress() as progress:
            path, source = demo_model(user_cache(), progress=progress)
        self.echo(f"model: SmolLM2-135M-Instruct from {source}")
        return path, source

    def _say(self, part: str, text: str) -> None:
        """What comes next, and how long it is from here to the end."""
        self.echo("\n" + click.style(f"# {text}", bold=True) + click.style(f" ({self._clock.left(part)})", dim=True))

    def _run(self, *arguments: str) -> JsonValue:
        """Show a command as it would be typed, then run it there; what came of it, for JSON only."""
        from memit_vc.cli.main import cli

        typed = " ".join(f'"{word}"' if " " in word else word for word in arguments)
        self.echo(click.style(f"$ memitvc {typed}", fg="green"))
        command = [arguments[0], "-C", str(self.where), *arguments[1:]]
        made: JsonValue = None
        began = time.monotonic()
        if self.io.json:
            with redirect_stdout(StringIO()) as said:
                result = cli.main([*command, "--json"], prog_name="memitvc", standalone_mode=False)
            made = json.loads(said.getvalue())
            seconds = time.monotonic() - began
            self._steps.append({"command": list(arguments), "seconds": seconds, "result": made})
        else:
            result = cli.main(command, prog_name="memitvc", standalone_mode=False)
        if isinstance(result, int) and result:
            raise MemitVCError(
                f"`memitvc {arguments[0]}` ended with {result}", hint="Report it, please: this is a bug."
            )
        return made

    def _answers(self, facts: Sequence[Fact], *, first: int) -> None:
        from memit_vc.porcelain.asking.ask import ask
        from memit_vc.repository import Repository

        with Repository.open(self.where) as repository, self.io.progress() as progress:
            prompts = [fact.prompt for fact in facts]
            table = ask(repository, prompts, ["HEAD~3", "HEAD~1", "HEAD"], new_tokens=6, progress=progress)
        rows: list[list[str]] = []
        records: list[JsonValue] = []
        for index, (fact, asked) in enumerate(zip(facts, table, strict=True)):
            answered = [answer.text.strip().split("\n", 1)[0].strip() for answer in asked.answers]
            said = [_said(answer) for answer in answered]
            rows.append(["1st" if index < first else "2nd", f"{fact.prompt} …", *said, fact.target])
            record: dict[str, Any] = {"commit": 1 if index < first else 2, "prompt": fact.prompt, "target": fact.target}
            records.append({**record, **dict(zip(_POINTS, answered, strict=True))})
        self.record["answers"] = records
        if not self.io.json:
            self.echo(click.style("# What the model answers:", bold=True))
            self.io.table(["commit", "prompt", "base", "both commits", "first reverted", "wanted"], rows)


def _said(answer: str) -> str:
    """The first few words of an answer."""
    words = answer.split()[:3]
    return " ".join(words).rstrip(".,;:") or "(nothing)"
