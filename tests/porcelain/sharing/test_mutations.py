"""Valid remotes, changed at random: refused, or harmless. Never a traceback, never a trace.

A third of the changes are raw; the others keep every id right, so that they get past the hashes to the checks of
content.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memit_vc.errors import MemitVCError
from memit_vc.porcelain.history.facts import facts
from memit_vc.porcelain.history.log import log
from memit_vc.porcelain.history.show import show
from memit_vc.porcelain.sharing.clone import clone
from memit_vc.porcelain.sharing.fetch import fetch
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.remote.manifest import MANIFEST
from memit_vc.repository import Repository
from tests.support.forge import Forge
from tests.support.places import contents
from tests.support.remotes import World

ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1 << 60, 1 << 70, 0.5, 1e308, "", "x", "\0", "\ud800", "../../x", "ab" * 32, "AB" * 32),
    *([], {}, [None], {"x": 1}, ["ab" * 32] * 2, "é" * 300, "x" * 70_000),
)


def spoilt(data: bytes, chance: random.Random) -> bytes:
    """Bytes flipped, cut, doubled, put in, exchanged or thrown away."""
    at, size = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 8, 64, 1000))
    part = data[at : at + size]
    return chance.choice(
        (
            data[:at] + bytes(b ^ (1 << chance.randrange(8)) for b in part) + data[at + size :],
            data[:at] + data[at + size :],
            data[:at] + part + part + data[at + size :],
            data[:at] + chance.randbytes(size) + data[at:],
            data[:at] + chance.randbytes(len(part)) + data[at + size :],
            data[:at],
            data[:at] + bytes(size) + data[at + size :],
        )
    )


def altered(value: Any, chance: random.Random) -> Any:
    """A JSON value with one place in it changed: replaced, left out, doubled, or put elsewhere."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value))
        rest = {k: v for k, v in value.items() if k != key}
        how = chance.randrange(8)
        if how == 0:
            return rest
        if how == 1:
            return {**rest, chance.choice(("", "more", "../x", "ab" * 32, key[:-1])): value[key]}
        return {**rest, key: altered(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        how = chance.randrange(6)
        if how == 0:
            return value[:at] + value[at + 1 :]
        if how == 1:
            return [*value, value[at]]
        if how == 2:
            return value[::-1]
        return [*value[:at], altered(value[at], chance), *value[at + 1 :]]
    if isinstance(value, str) and value and chance.random() < 0.4:
        return spoilt(value.encode("utf-8", "surrogatepass"), chance).decode("utf-8", "replace")
    if isinstance(value, int | float) and not isinstance(value, bool) and chance.random() < 0.4:
        return value + chance.choice((1, -1, 0.5, 1 << 40))
    return chance.choice(ODD)


def raw(forge: Forge, chance: random.Random) -> str:
    """Any file's bytes, as the disk or somebody in between would spoil them."""
    files = sorted(path for path in forge.root.rglob("*") if path.is_file())
    target = chance.choice(files)
    data = target.read_bytes()
    other = chance.choice(files).read_bytes()
    name = target.relative_to(forge.root).as_posix()
    forge.write(name, chance.choice((spoilt(data, chance), spoilt(spoilt(data, chance), chance), other)))
    return name


def manifest(forge: Forge, chance: random.Random) -> str:
    record = altered(forge.manifest, chance)
    forge.write(MANIFEST, as_canonical(record))
    return MANIFEST


def commit(forge: Forge, chance: random.Random) -> str:
    record = altered(forge.record(chance.choice((forge.tip, forge.newest_edit()))), chance)
    if isinstance(record, dict) and isinstance(record.get("commit"), dict):
        from memit_vc.objects import digest
        from memit_vc.remote.manifest import commit_path

        name = digest("commit", as_canonical(record["commit"]))
        forge.write(commit_path(name), as_canonical(record))
        forge.publish(lambda each: each["refs"].update({"heads/main": name}))
    return "a commit"


def blob(forge: Forge, chance: random.Random) -> str:
    forge.with_patch(spoilt(forge.patch()[1], chance))
    return "a patch"


def factors(forge: Forge, chance: random.Random) -> str:
    """Numbers and shapes, in a file that is well formed."""

    def change(tensors: dict[str, Any]) -> None:
        name = chance.choice(sorted(tensors))
        flat = tensors[name].reshape(-1)
        how = chance.randrange(5)
        if how == 0:
            tensors[name] = tensors[name][:, :-1].contiguous()
        elif how == 1:
            tensors[name] = tensors[name].double()
        elif how == 2:
            tensors.pop(name)
        else:
            flat[chance.randrange(len(flat))] = chance.choice((float("nan"), -float("inf"), 1e30, 1e-30, -0.0, 1.0))

    forge.repacked(change)
    return "factors"


def header(forge: Forge, chance: random.Random) -> str:
    def change(record: dict[str, Any]) -> None:
        made = altered(record, chance)
        record.clear()
        record.update(made if isinstance(made, dict) else {"format": made})

    forge.repacked(header=change)
    return "a patch's header"


def as_canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


KINDS: tuple[Callable[[Forge, random.Random], str], ...] = (
    raw,
    raw,
    raw,
    manifest,
    commit,
    commit,
    blob,
    factors,
    header,
)


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


@pytest.mark.slow
def test_two_thousand_more(world: World) -> None:
    refused, harmless = run(world, range(300, 2300))
    assert refused + harmless == 2000
    assert refused > 1000


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
