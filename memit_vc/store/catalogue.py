"""What the repository holds, read by name: the base, facts, patches and the facts of columns."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from memit_vc.objects import BaseId, BaseManifest, BlobId, ColumnId, EditableWeight, Fact, FactId, Patch, PatchId
from memit_vc.store import gc, rows_patches, rows_refs
from memit_vc.store.blobs import BlobStore
from memit_vc.store.database import Database
from memit_vc.store.migrate import check_revision

__all__ = ["Catalogue"]


class Catalogue:
    """Lookups. IntegrityError names what is not stored. `root` is the `.memitvc` directory."""

    def __init__(self, root: Path, database: Database) -> None:
        """MemitVCError where the database is of another schema revision, with what to upgrade."""
        self.root = root
        self.directory = root.parent
        self.blobs = BlobStore(root / "objects")
        self._database = database
        self._sound: set[PatchId] = set()
        with database.read() as connection:
            check_revision(connection)
            self.base_id = BaseId(rows_refs.read_meta(connection, "base_id"))

    def base(self) -> BaseManifest:
        """Every tensor of the base as `init` recorded it."""
        return BaseManifest.from_json(json.loads(self._meta("manifest")))

    def weights(self) -> tuple[EditableWeight, ...]:
        """The weights that patches may touch."""
        return tuple(EditableWeight.from_json(record) for record in json.loads(self._meta("weights")))

    def base_files(self) -> dict[str, str]:
        """The base's other files (config.json, tokenizer): name → SHA-256."""
        return dict(json.loads(self._meta("files")))

    def _meta(self, key: str) -> str:
        with self._database.read() as connection:
            return rows_refs.read_meta(connection, key)

    def fact(self, id: FactId) -> Fact:  # noqa: A002
        return self.facts([id])[id]

    def facts(self, ids: Collection[FactId]) -> dict[FactId, Fact]:
        """Several facts in one statement."""
        with self._database.read() as connection:
            return rows_patches.load_facts(connection, ids)

    def column_facts(self, columns: Collection[ColumnId]) -> dict[ColumnId, list[tuple[FactId, str]]]:
        """(fact, role) of each column; several for a dense patch."""
        with self._database.read() as connection:
            return rows_patches.column_facts(connection, columns)

    def bounds(self, columns: Collection[ColumnId]) -> dict[str, float]:
        """Per weight, the sum of the columns' bounds in grid units; weights that no column touches are left out."""
        with self._database.read() as connection:
            return rows_patches.sum_bounds(connection, columns)

    def edited_weights(self) -> set[str]:
        """The weights that any patch of this repository touches, live or not."""
        with self._database.read() as connection:
            return rows_patches.edited_weights(connection)

    def patch(self, id: PatchId) -> Patch:  # noqa: A002
        return self.patches([id])[id]

    def patches(self, ids: Collection[PatchId]) -> dict[PatchId, Patch]:
        """Several patches in a few statements. IntegrityError where one is not here."""
        with self._database.read() as connection:
            return rows_patches.load_patches(connection, ids)

    def known_patches(self, ids: Collection[PatchId]) -> set[PatchId]:
        """Those of `ids` that are recorded here."""
        with self._database.read() as connection:
            return rows_patches.known_patches(connection, ids)

    def patch_constraints(self) -> dict[PatchId, BlobId | None]:
        """Every patch that is recorded here, with its constraints blob where it came with one."""
        with self._database.read() as connection:
            return rows_patches.all_constraints(connection)

    def known_columns(self, columns: Collection[ColumnId]) -> set[ColumnId]:
        """Those of `columns` that some patch supplies."""
        with self._database.read() as connection:
            return rows_patches.known_columns(connection, columns)

    def missing_objects(self) -> list[BlobId]:
        """Objects that rows name and that are not here or damaged, sorted: deleted by hand, or lost with a disk."""
        with self._database.read() as connection:
            named = gc.referenced_blobs(connection)
        return sorted(blob for blob in named if not self.blobs.verify(blob))

    def constraints_blobs(self) -> dict[PatchId, BlobId]:
        """The constraints of each patch that has some."""
        with self._database.read() as connection:
            return rows_patches.constraints_blobs(connection)

    def patch_path(self, id: PatchId) -> Path:  # noqa: A002
        """The patch's safetensors file, whose bytes were seen to hash to its name; IntegrityError otherwise.

        Weights are computed from it, and nothing later would notice. Each patch is hashed once per opened repository.
        """
        if id not in self._sound:
            self.blobs.path(id)
            if not self.blobs.verify(id):
                self.blobs.read(id)
            self._sound.add(id)
        return self.blobs.path(id)
