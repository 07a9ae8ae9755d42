"""Valid remotes, changed at random: refused, or harmless. Never a traceback, never a trace.

`make attack` does the same many more times, and at every other door (`tests/support/attack`).
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from memit_vc.errors import MemitVCError
from memit_vc.porcelain.history.facts import facts
from memit_vc.porcelain.history.log import log
from memit_vc.porcelain.history.show import show
from memit_vc.porcelain.sharing.clone import clone
from memit_vc.porcelain.sharing.fetch import fetch
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.attack.changes import altered, as_canonical, spoilt
from tests.support.attack.remotes import KINDS
from tests.support.forge import Forge
from tests.support.places import contents
from tests.support.remotes import World


def error_of(call: Callable[[], object]) -> MemitVCError | None:
    try:
        call()
    except MemitVCError as error:
        return error
    return None


def run(world: World, numbers: range) -> tuple[int, int]:
    """(refused, harmless)."""
    clean, spare = world.shared.with_name("clean"), world.empty.with_name("spare")
    shutil.copytree(world.shared, clean)
    shutil.copytree(world.empty, spare)
    before = contents(world.empty)
    found = [0, 0]
    for number in numbers:
        chance = random.Random(number)
        shutil.rmtree(world.shared)
        shutil.copytree(clean, world.shared)
        what = chance.choice(KINDS)(Forge(world.shared), chance)
        with Repository.open(world.empty) as repository:
            error = error_of(lambda: fetch(repository))
            if error is not None:
                assert error.exit_code in (12, 14), (number, what, error)
                assert error.hint, (number, what, error)
                assert contents(world.empty) == before, (number, what)
                assert list(world.empty.rglob("cache/incoming/*")) == []
                found[0] += 1
                continue
            # whatever was taken in is whole, and can be looked at
            assert fsck(repository) == ([], 0), (number, what)
            for entry in log(repository, everything=True):
                show(repository, entry.id)
                facts(repository, entry.id)
            found[1] += 1
        if contents(world.empty) != before:
            shutil.rmtree(world.empty)
            shutil.copytree(spare, world.empty)
    return found[0], found[1]


def test_random_changes_are_refused_or_harmless(world: World) -> None:
    refused, harmless = run(world, range(300))
    assert refused + harmless == 300
    assert refused > 150


def test_a_clone_of_a_changed_base_or_setting(world: World, tmp_path: Path) -> None:
    clean = world.shared.with_name("clean")
    shutil.copytree(world.shared, clean)
    for number in range(40):
        chance = random.Random(number)
        shutil.rmtree(world.shared)
        shutil.copytree(clean, world.shared)
        name = chance.choice(("base.json", "hparams.yaml"))
        data = (clean / name).read_bytes()
        changed = spoilt(data, chance)
        if name == "base.json" and number % 2:
            changed = as_canonical(altered(json.loads(data), chance))
        Forge(world.shared).write(name, changed)
        copy = tmp_path / f"copy-{number}"
        error = error_of(lambda: clone(str(world.shared), copy, base=str(world.base), start=tmp_path))  # noqa: B023
        if error is not None:
            assert error.exit_code in (12, 14), (number, name, error)
            assert not copy.exists(), (number, name)
            continue
        with Repository.open(copy) as repository:
            assert fsck(repository) == ([], 0), (number, name)
