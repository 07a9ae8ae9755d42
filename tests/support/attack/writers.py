"""Eight writers on one repository, with gc and fsck beside them: what a writer was told is there stays there."""

from __future__ import annotations

import contextlib
import io
import json
import random
import time
import traceback
from pathlib import Path

import click

from memit_vc.cli import main
from memit_vc.errors import MemitVCError
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.algebra.world import World, fact
from tests.support.attack.children import fork_server
from tests.support.attack.report import Found, own_clock

__all__ = ["WRITERS", "race"]

WRITERS = 8
ALLOWED = (0, 1, 2, 11, 13)
"""Exit codes of a writer: done, nothing to do, moved, a contradiction."""


def race(place: Path, minutes: float, seed: str, found: Found, patience: float) -> None:
    """For so many minutes. A command that takes longer than `patience` seconds of its own hangs."""
    world = World.make(place / "racing")
    world.copy(place / "work").close()
    first = fork_server().Process(target=int)  # it waits until the fork server has imported everything
    first.start()
    first.join()
    until = time.time() + 60 * minutes
    told = [place / f"told-{number}.jsonl" for number in range(WRITERS + 2)]
    jobs = [_writer] * WRITERS + [_collector, _checker]
    children = [
        fork_server().Process(target=job, args=(world, place / "work", number, f"{seed} {number}", until, str(file)))
        for number, (job, file) in enumerate(zip(jobs, told, strict=True))
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(max(0.0, until - time.time()) + 10 * patience)
        if child.exitcode != 0:
            found.fault(f"a process ended with {child.exitcode}")
            child.kill()
    acknowledged: list[str] = []
    for number, file in enumerate(told):
        for line in file.read_text().splitlines():
            what, seconds, fault, commit = json.loads(line)
            found.now = f"process {number}"
            found.count(what)
            found.took(seconds, what)
            acknowledged += [commit] if commit else []
            if fault:
                found.fault(f"{what}: {fault}")
            if seconds > patience:
                found.fault(f"{what}: took {seconds:.1f} seconds")
    found.now = "at the end"
    _judge(place / "work", acknowledged, found)


def _judge(work: Path, acknowledged: list[str], found: Found) -> None:
    """Every acknowledged commit is there; gc leaves no garbage; all is whole."""
    found.counts["acknowledged commits"] = len(acknowledged)
    with Repository.open(work) as repository:
        stored = set(repository.stored_commits())
        lost = [commit for commit in acknowledged if commit not in stored]
        if lost:
            found.fault(f"{len(lost)} commits are lost: {lost}")
        found.counts["operations"] = len(repository.operations())
        if problems := fsck(repository)[0]:
            found.fault(f"fsck says {problems}")
    assert main(["-C", str(work), "gc", "--grace", "0"]) == 0
    with Repository.open(work) as repository:
        if (left := fsck(repository)) != ([], 0):
            found.fault(f"after gc fsck says {left}")


class _Told:
    """Writes down what a process did: (what, seconds, fault, acknowledged commit)."""

    def __init__(self, file: str) -> None:
        self._file = Path(file).open("a", encoding="utf-8")  # noqa: SIM115 (as long as the process)

    def __call__(self, what: str, start: float, fault: str = "", commit: str = "") -> None:
        self._file.write(json.dumps([what, own_clock() - start, fault, commit]) + "\n")
        self._file.flush()


def _command(told: _Told, work: Path, *line: str, allowed: tuple[int, ...] = ALLOWED) -> None:
    start, said = own_clock(), io.StringIO()
    fault = ""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = main(["-C", str(work), *line])
        if code not in allowed or "Traceback" in said.getvalue():
            fault = f"{code}: {click.unstyle(said.getvalue())}"
    except BaseException:
        code, fault = -1, traceback.format_exc()
    told(f"{line[0]}: {code}", start, fault)


def _commit(told: _Told, world: World, work: Path, number: int) -> None:
    start = own_clock()
    try:
        with Repository.open(work) as repository:
            made = world.commit(repository, [fact(number)], seed=number, message=f"city {number}")
        told("commit: 0", start, commit=made.id)
    except MemitVCError as error:
        told(f"commit: {error.exit_code}", start, "" if error.exit_code == 11 else error.message)
    except Exception:
        told("commit: -1", start, traceback.format_exc())


def _writer(world: World, work: Path, number: int, seed: str, until: float, file: str) -> None:
    chance, told, made = random.Random(seed), _Told(file), 0
    while time.time() < until:
        made += 1
        how = chance.random()
        branch = f"branch-{chance.randrange(4)}"
        if how < 0.5:
            _commit(told, world, work, 1_000_000 * number + made)
        elif how < 0.65:
            _command(told, work, "revert", f"HEAD~{chance.randrange(3)}")
        elif how < 0.75:
            _command(told, work, "squash", "HEAD~2..HEAD")
        elif how < 0.85:
            _command(told, work, "undo")
        elif how < 0.92:
            _command(told, work, "switch", chance.choice(("main", branch)))
        elif how < 0.97:
            _command(told, work, "branch", branch)
        else:
            _command(told, work, "branch", "-D", branch)


def _collector(world: World, work: Path, number: int, seed: str, until: float, file: str) -> None:
    told = _Told(file)
    while time.time() < until:
        _command(told, work, "gc", allowed=(0, 11))
        time.sleep(1)


def _checker(world: World, work: Path, number: int, seed: str, until: float, file: str) -> None:
    told = _Told(file)
    while time.time() < until:
        _command(told, work, "fsck", allowed=(0, 11))
        time.sleep(1)
