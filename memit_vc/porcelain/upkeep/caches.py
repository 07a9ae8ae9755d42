"""What only saves time, or is remembered so as not to be computed again: what of it is damaged, and taken back.

A damaged file is removed, so that what the message says comes true: the next command that needs it makes it anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from memit_vc.errors import MemitVCError
from memit_vc.objects import StateId, canonical_json
from memit_vc.porcelain.output.recorded import recorded_hashes, take_back
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.store import hotcache, tensor_digest
from memit_vc.store.files import write_atomic
from memit_vc.store.hotcache import remove_shard, shards
from memit_vc.store.jsoncache import is_whole
from memit_vc.store.records import Problem
from memit_vc.store.sealed import unseal
from memit_vc.store.shards import STAMPS, hot_header


def damaged_caches(repository: Repository, *, progress: Progress = silent) -> Iterator[Problem]:
    """Damage below `cache/`, removed as it is found."""
    cache = repository.root / "cache"
    for path in sorted([*cache.glob("*.json"), *(repository.root / "base").glob(f"*/{STAMPS}")]):
        if not is_whole(path):
            yield _removed(path, "is damaged")
    searches = sorted((cache / "z").glob("*/*.safetensors"))
    for number, path in enumerate(searches, 1):
        reason = tensor_digest.damage(path)
        if reason is not None:
            yield _removed(path, reason)
        progress("checking the cache of z", number, len(searches))
    yield from _hot_shards(repository, progress)


def damaged_statistics(repository: Repository) -> Iterator[Problem]:
    """Damage below `statistics/`: what cannot be believed is removed, the key is written again from the database."""
    root = repository.root / "statistics"
    chosen = root / "chosen.json"
    with suppress(FileNotFoundError):
        try:
            unseal(chosen.name, json.loads(chosen.read_bytes()))
        except (ValueError, RecursionError) as error:
            hint = "choose the statistics again: `memitvc stats --corpus TEXT`, or `--import FILES`"
            yield Problem("statistics", "chosen", f"{chosen}: {error}; {hint}")
    for identifier, record in repository.statistics().items():
        path, wanted = root / identifier / "key.json", canonical_json(record) + b"\n"
        with suppress(OSError):
            if path.read_bytes() != wanted:
                with suppress(MemitVCError):
                    write_atomic(path, wanted)
                yield Problem("statistics", identifier, f"{path}: differs from the database; it was written again")
    for path in sorted(root.glob("*/*.safetensors")):
        reason = tensor_digest.damage(path)
        if reason is not None:
            yield _removed(path, reason, kind="statistics")


def take_back_state(repository: Repository, state: StateId, hashes: Mapping[str, str]) -> None:
    """Forget recorded hashes that are not those of the state, and every cached shard with others than `hashes`."""
    with suppress(MemitVCError):
        take_back(repository, state)
    for cached, path, record in shards(repository.root / "cache" / "hot"):
        if cached == state and any(hashes.get(name, sha) != sha for name, sha in record.items()):
            remove_shard(path)


def _hot_shards(repository: Repository, progress: Progress) -> Iterator[Problem]:
    weights = {weight.name: weight for weight in repository.weights()}
    tensors = {tensor.name for tensor in repository.base().tensors}
    found = list(shards(repository.root / "cache" / "hot"))
    for number, (state, path, record) in enumerate(found, 1):
        known = recorded_hashes(repository, state)
        if not path.with_suffix(".json").exists():  # whoever kept it was stopped before the record: nobody will use it
            remove_shard(path)
            continue
        if record.keys() - weights.keys() and record.keys() <= tensors:  # of an adapter that `gc` has removed since
            remove_shard(path)
            continue
        reason: str | None = "its record is damaged"
        if record.keys() and record.keys() <= weights.keys():
            reason = hotcache.damage(path, hot_header(weights[name] for name in record), record)
            if not reason and known is not None and any(record.get(name, sha) != sha for name, sha in known.items()):
                reason = "its weights are not those that are recorded for its state"
        if reason:
            yield _removed(path, reason)
            remove_shard(path)
        progress("checking cached shards", number, len(found))


def _removed(path: Path, reason: str, *, kind: str = "cache") -> Problem:
    try:
        path.unlink(missing_ok=True)
        done = "it was removed, and is made again when it is needed"
    except OSError as error:
        done = f"it could not be removed ({error.strerror})"
    name = path.parent.name if kind == "statistics" else path.name
    return Problem("statistics" if kind == "statistics" else "cache", name, f"{path}: {reason}; {done}")
