"""kill -9 in the midst of every verb: what there is afterwards is the old or the new, and the verb can be run again."""

from __future__ import annotations

import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.attack.children import started
from tests.support.attack.report import Found
from tests.support.attack.world import DEAR, VERBS, Reader, World

__all__ = ["kill"]


@dataclass
class Whole:
    """What a verb does when nobody kills it."""

    before: dict[str, Any]
    after: dict[str, Any]
    seconds: float
    steps: int


@dataclass
class Killer:
    """Kills one verb after the other, each in a fresh copy of the world."""

    world: World
    place: Path
    found: Found
    patience: float
    reader: Reader = field(default_factory=Reader)
    whole: dict[str, Whole] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.place / "trial"

    def run(self, verb: str, *, steps: int | None = None, seconds: float | None = None) -> int | None:
        """The exit code of a verb in the trial; killed at a step, or after so many seconds."""
        files = {"told": str(self.place / "told"), "said": str(self.place / "said")}
        (self.place / "told").unlink(missing_ok=True)
        start = time.monotonic()
        child = started(self.world.line(verb, self.root), steps=steps, **files)
        child.join(self.patience if seconds is None else seconds)
        if child.is_alive():
            if seconds is None:
                self.found.fault(f"{verb}: hangs")
            child.kill()
            child.join()
        self.found.took(time.monotonic() - start, verb)
        if "Traceback (most recent call last)" in self.said:
            self.found.fault(f"{verb}: {self.said}")
        return child.exitcode

    @property
    def said(self) -> str:
        file = self.place / "said"
        return file.read_text(errors="replace") if file.exists() else ""

    def fresh(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self.world.copy(self.root)

    def known(self, verb: str) -> Whole:
        if verb not in self.whole:
            self.fresh()
            before, start = self.reader.seen(self.root, verb), time.monotonic()
            code = self.run(verb)
            seconds = time.monotonic() - start
            assert code == 0, (verb, code, self.said)
            steps = int((self.place / "told").read_text())
            self.whole[verb] = Whole(before, self.reader.seen(self.root, verb), seconds, steps)
        return self.whole[verb]

    def attack(self, verb: str, chance: random.Random) -> None:
        """One kill: at a step, or at any time."""
        whole = self.known(verb)
        self.fresh()
        if chance.random() < 0.5:
            code = self.run(verb, steps=chance.randrange(whole.steps + 1))
        else:
            code = self.run(verb, seconds=chance.uniform(0, whole.seconds))
        self.found.count("killed" if code else "finished before")
        if code not in (0, -signal.SIGKILL):
            self.found.fault(f"{verb}: failed by itself: {code}: {self.said}")
        self.found.count(f"of {verb}")
        then = self.state(verb, whole)
        self.found.count(then)
        if then != "after" or whole.before == whole.after:
            made = whole.before["made"] != whole.after["made"] == self.reader.seen(self.root, verb)["made"]
            code = self.run(verb)
            if code != 0 and made:
                self.found.count("made already")
            elif code != 0:
                self.found.fault(f"{verb}: cannot be run again: {code}: {self.said}")
            elif self.state(verb, whole, again=True) != "after":
                self.found.fault(f"{verb}: run again, it does something else")

    def state(self, verb: str, whole: Whole, *, again: bool = False) -> str:
        """Whether all is as before or as after."""
        now = self.reader.seen(self.root, verb)
        if now == whole.after:
            return "after"
        if now == whole.before:
            return "before"
        kept = set(now["work"]["kept"])
        if kept >= set(whole.before["work"]["kept"]):  # a patch that was computed is kept until its commit is made
            now["work"]["kept"] = whole.before["work"]["kept"]
        if now == whole.before:
            return "before"
        for name, part in now.items():
            if part not in (whole.before[name], whole.after[name]) and not (name == "model" and not again):
                self.found.fault(f"{verb}: {name} is neither old nor new: {part}")
        return "both"


def kill(world: World, place: Path, numbers: range, seed: str, found: Found, patience: float) -> None:
    """So many kills, spread over all verbs. A verb that takes longer than `patience` seconds hangs."""
    verbs = [verb for verb in VERBS if verb != "sign" or (world.root / "key").exists()]
    turns = [*verbs, *(verb for _ in range(2) for verb in verbs if verb not in DEAR)]
    killer = Killer(world, place, found, patience)
    for number in numbers:
        with found.at(f"kill {number}"):
            killer.attack(turns[number % len(turns)], random.Random(f"{seed} kill {number}"))
