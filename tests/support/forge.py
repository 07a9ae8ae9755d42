"""A directory remote in the hands of somebody hostile: any file changed, and everything that names it made to fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from memit_vc.objects import METADATA_KEY, digest
from memit_vc.remote.manifest import MANIFEST, commit_path, object_path
from tests.support.remotes import canonical

__all__ = ["Forge"]

Tensors = dict[str, torch.Tensor]


class Forge:
    """Changes the tree at `root`. Ids follow from content unless a method says otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def manifest(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.root / MANIFEST).read_bytes())
        return record

    @property
    def tip(self) -> str:
        name: str = self.manifest["refs"]["heads/main"]
        return name

    def write(self, path: str, data: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(data)

    def publish(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change memitvc.json."""
        record = self.manifest
        change(record)
        self.write(MANIFEST, canonical(record))

    def record(self, commit: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / commit_path(commit)).read_bytes())
        return found

    def put(self, data: bytes) -> str:
        """An object under its right name."""
        name = hashlib.sha256(data).hexdigest()
        self.write(object_path(name), data)
        return name

    def commit(self, record: dict[str, Any]) -> str:
        """A record under the id of its commit, as the new tip of main."""
        name = digest("commit", canonical(record["commit"]))
        self.write(commit_path(name), canonical(record))
        self.publish(lambda manifest: manifest["refs"].update({"heads/main": name}))
        return name

    def newest_edit(self) -> str:
        """The commit below the revert at the tip: the last one that brings a patch."""
        parent: str = self.record(self.tip)["commit"]["parents"][0]
        return parent

    def edit(self, change: Callable[[dict[str, Any]], None]) -> str:
        """A changed copy of the newest edit becomes the tip."""
        record = self.record(self.newest_edit())
        change(record)
        return self.commit(record)

    def patch(self) -> tuple[str, bytes]:
        """(id, bytes) of the newest edit's patch."""
        (name,) = self.record(self.newest_edit())["patches"]
        return name, (self.root / object_path(name)).read_bytes()

    def with_patch(self, data: bytes) -> str:
        """The newest edit with other bytes for a patch, under their right name."""

        def change(record: dict[str, Any]) -> None:
            name = self.put(data)
            record["commit"]["patches"] = [name]
            record["patches"] = {name: None}

        return self.edit(change)

    def repacked(
        self,
        tensors: Callable[[Tensors], None] = lambda _: None,
        header: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> str:
        """The newest edit with changed factors or a changed header in its patch."""
        data = self.patch()[1]
        length = int.from_bytes(data[:8], "little")
        described = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][METADATA_KEY])
        values = load(data)
        tensors(values)
        header(described)
        try:
            text = canonical(described).decode()
        except UnicodeEncodeError:  # half a character can only be written as an escape
            text = json.dumps(described, sort_keys=True, separators=(",", ":"))
        return self.with_patch(save(values, {METADATA_KEY: text}))
