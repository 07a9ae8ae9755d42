"""A valid remote, changed at random.

A third of the changes are raw; the others keep every id right, so that they get past the hashes to the checks of
content.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from memit_vc.remote.manifest import MANIFEST
from tests.support.attack.changes import altered, as_canonical, spoilt
from tests.support.forge import Forge

__all__ = ["KINDS"]


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
