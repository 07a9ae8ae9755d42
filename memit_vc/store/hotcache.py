"""Hot shards of states already materialised: least recently used go first. Safe to delete at any time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from memit_vc.errors import MemitVCError, StorageError
from memit_vc.objects import StateId
from memit_vc.store.checkpoint import Checkpoint
from memit_vc.store.jsoncache import recall, remember
from memit_vc.store.links import link
from memit_vc.store.parts import in_parts
from memit_vc.store.safetensors_file import read_header
from memit_vc.store.shards import ShardedBase


@dataclass(frozen=True)
class HotCache:
    """`directory` holds `<state>-<base>.safetensors` with the hashes of its tensors beside it.

    A shard may share its bytes with a checkout (a hard link), which its owner may write into. So the hashes are not
    trust but a check: copying a shard compares them, and they carry a digest of their own.
    """

    directory: Path
    limit: int
    """Bytes that the shards may take."""

    def find(self, state: StateId, base: ShardedBase) -> tuple[Path, dict[str, str]] | None:
        """The shard of a state and the SHA-256 that each of its tensors must have."""
        path = self._path(state, base)
        record = recall(path.with_suffix(".json"))
        if record.keys() != base.hot.keys() or not path.is_file():
            return None
        with contextlib.suppress(OSError):
            path.with_suffix(".json").touch()
        return path, record

    def keep(self, state: StateId, base: ShardedBase, shard: Path, hashes: Mapping[str, str]) -> None:
        """Remember a shard; a cache that cannot be written is not an error."""
        path = self._path(state, base)
        with contextlib.suppress(StorageError, OSError):
            self.directory.mkdir(parents=True, exist_ok=True)
            self.drop(state, base)
            if shard.stat().st_size <= self.limit:
                link(shard, path)
                remember(path.with_suffix(".json"), hashes)
            self.trim()

    def drop(self, state: StateId, base: ShardedBase) -> None:
        remove_shard(self._path(state, base))

    def trim(self) -> None:
        """Remove the least recently used shards until the rest fits the limit."""
        with contextlib.suppress(OSError):
            found = sorted(self.directory.glob("*.safetensors"), key=_last_use, reverse=True)
            size = 0
            for path in found:
                size += path.stat().st_size
                if size > self.limit:
                    remove_shard(path)

    def _path(self, state: StateId, base: ShardedBase) -> Path:
        return self.directory / f"{state}-{base.id[:16]}.safetensors"


def shards(directory: Path) -> Iterator[tuple[StateId, Path, dict[str, str]]]:
    """Every kept shard with its state and its record; {} for a record that is damaged or gone."""
    for path in sorted(directory.glob("*.safetensors")):
        yield StateId(path.name.partition("-")[0]), path, recall(path.with_suffix(".json"))


def damage(path: Path, head: bytes, record: Mapping[str, str]) -> str | None:
    """What is wrong with a kept shard that should begin with `head` and hold tensors with the hashes of `record`."""
    try:
        header = read_header(path)
        with path.open("rb") as file:
            if file.read(header.data_start) != head:
                return "its header is another one"
        found = Checkpoint(path.parent, {path.name: in_parts(header, record)}).manifest()
    except (MemitVCError, OSError) as error:
        return str(error)
    wrong = sorted(tensor.name for tensor in found.tensors if record.get(tensor.name) != tensor.sha256)
    return f"{wrong[0]} has other bytes than those that were written" if wrong else None


def remove_shard(shard: Path) -> None:
    """Forget a shard and its record, where that is possible."""
    with contextlib.suppress(OSError):
        shard.with_suffix(".json").unlink(missing_ok=True)
        shard.unlink(missing_ok=True)


def _last_use(path: Path) -> int:
    try:
        return path.with_suffix(".json").stat().st_mtime_ns
    except OSError:
        return 0
