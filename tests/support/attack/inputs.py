"""Changed inputs at every door, in processes that have a gigabyte: refused, or harmless, and nothing is left behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from memit_vc.errors import MemitVCError
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.attack.children import fork_server
from tests.support.attack.doors import DOORS, Inputs
from tests.support.attack.report import Found, own_clock
from tests.support.places import contents
from tests.support.remotes import World

__all__ = ["strike_all"]

MEMORY = 1 << 30
BATCH = 400
"""Inputs for one process: what one of them leaves in memory does not count for all."""


class HangError(Exception):
    """A door that did not answer in time."""


def strike_all(world: World, place: Path, numbers: range, seed: str, found: Found, patience: float) -> None:
    """So many inputs, spread over all doors."""
    whole = sum(share for _, _, share in DOORS)
    for door, _, share in DOORS:
        mine = range(numbers.start, numbers.start + max(1, round(len(numbers) * share / whole)))
        for first in range(mine.start, mine.stop, BATCH):
            part = range(first, min(first + BATCH, mine.stop))
            told = place / "told.jsonl"
            told.unlink(missing_ok=True)
            child = fork_server().Process(target=_batch, args=(door, world, place, part, seed, str(told), patience))
            child.start()
            child.join(60 + patience * len(part))
            last = ""
            for line in told.read_text().splitlines() if told.exists() else ():
                outcome, number, seconds, text, peak = json.loads(line)
                last = f"{door} {number}"
                found.now = last
                found.count("tries")
                found.count(f"{door}: {outcome}")
                found.took(seconds, door)
                found.peak = max(found.peak, peak)
                if outcome == "fault":
                    found.fault(text)
            if child.exitcode != 0:
                found.fault(f"{door}: the process ended with {child.exitcode} after {last}")
                child.kill()
            print(
                f"{found.part}: {door} {part.stop - mine.start} of {len(mine)}, {len(found.faults)} faults", flush=True
            )


def _batch(door: str, world: World, place: Path, numbers: range, seed: str, told: str, patience: float) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # the others take address space in advance
    inputs = Inputs(world, place / "inputs")
    inputs.place.mkdir(exist_ok=True)
    for name in ("shared", "work", "empty"):
        inputs.fresh(name)
    strike = next(make for name, make, _ in DOORS if name == door)(inputs)
    before = {name: contents(inputs.place / name) for name in ("work", "empty")}
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with Path(told).open("a", encoding="utf-8") as file:
        for number in numbers:
            start = own_clock()
            try:
                with _limited(patience), contextlib.redirect_stderr(io.StringIO()) as said:
                    outcome = _outcome(strike(random.Random(f"{seed} {door} {number}")), said.getvalue())
                _left(inputs, before, outcome)
                text = ""
            except MemitVCError as error:
                outcome, text = ("refused", "") if error.message and error.hint else ("fault", f"no hint: {error}")
            except (Exception, SystemExit):
                outcome, text = "fault", traceback.format_exc()
                before = {name: contents(inputs.fresh(name)) for name in before}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            file.write(json.dumps([outcome, number, own_clock() - start, text, peak]) + "\n")
            file.flush()


def _outcome(code: object, said: str) -> str:
    """Of a command line: what its exit code says. A refusal has a message and a hint, and is no traceback."""
    said = click.unstyle(said)
    assert "Traceback" not in said, said
    if not isinstance(code, int) or code == 0:
        return "harmless"
    assert "error: " in said, said
    assert "hint: " in said, said
    assert "memory" not in said, said
    return "refused"


def _left(inputs: Inputs, before: dict[str, str], outcome: str) -> None:
    """A refusal leaves both repositories as they were; what was taken in is whole."""
    for name, digest in before.items():
        root = inputs.place / name
        if contents(root) == digest:
            continue
        assert outcome == "harmless", f"a refusal changed {name}"
        with Repository.open(root) as repository:
            assert fsck(repository) == ([], 0)
        before[name] = contents(inputs.fresh(name))
    assert list(inputs.empty.rglob("cache/incoming/*")) == []


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise HangError(f"no answer in {seconds} seconds")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
