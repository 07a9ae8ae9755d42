"""Repositories with weights and patches that no model ever saw: the history does not look inside a patch."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import save

from memit_vc.config import Config
from memit_vc.objects import (
    BaseManifest,
    BlobId,
    ColumnId,
    Commit,
    CommitId,
    EditableWeight,
    Fact,
    JsonValue,
    Patch,
    PatchColumn,
    PatchHeader,
    PatchId,
    RefUpdate,
    TensorRecord,
    WeightForm,
    canonical_json,
    digest,
)
from memit_vc.repository import Repository

__all__ = ["EDITABLE", "MANIFEST", "fact", "init", "put_patch", "record", "travelling"]

D_OUT, D_IN, QUANTUM = 3, 5, -40
EDITABLE = tuple(
    EditableWeight(
        name=f"model.layers.{layer}.mlp.down_proj.weight",
        parameter=f"model.layers.{layer}.mlp.down_proj.weight",
        layer=layer,
        orientation="out_in",
        d_out=D_OUT,
        d_in=D_IN,
        dtype="F32",
        quantum=QUANTUM,
    )
    for layer in (0, 1)
)
MANIFEST = BaseManifest(
    tensors=tuple(
        TensorRecord(
            name=w.name,
            dtype="F32",
            shape=(D_OUT, D_IN),
            sha256=hashlib.sha256(w.name.encode()).hexdigest(),
            file="model.safetensors",
        )
        for w in EDITABLE
    )
)


def init(directory: Path) -> Repository:
    """A repository on a base that exists in name only."""
    return Repository.init(
        directory,
        config=Config(base=str(directory / "base")),
        manifest=MANIFEST,
        weights=EDITABLE,
        files={"config.json": "0" * 64},
        hparams=b"alg_name: MEMIT\n",
        description="base synthetic",
    )


def fact(number: int, target: str | None = None) -> Fact:
    return Fact(prompt=f"City {number} lies in", subject=f"City {number}", target=target or f"country {number}")


def put_patch(
    repository: Repository,
    facts: Sequence[Fact],
    *,
    seed: int = 0,
    role: Literal["edit", "cancel"] = "edit",
    dense: bool = False,
    constraints: bool = True,
) -> Patch:
    """Store the blobs of a patch with one column per fact, the same for the same fact, seed and role."""
    quanta = 2.0**QUANTUM
    tensors: dict[str, np.ndarray] = {}
    for weight in EDITABLE:
        left, right = [], []
        for each in facts:
            name = f"{weight.name} {each.id} {role} {seed}".encode()
            generator = np.random.default_rng(int.from_bytes(hashlib.sha256(name).digest()[:8], "big"))
            left.append(generator.integers(-1000, 1000, D_OUT) * 2.0**-20)
            right.append(generator.integers(-1000, 1000, D_IN) * 2.0 ** (QUANTUM + 20))
        if dense:
            tensors[f"{weight.name}.dense"] = (np.stack(left, 1) @ np.stack(right)).astype(np.float32)
        else:
            tensors[f"{weight.name}.left"] = np.stack(left, 1).astype(np.float32)
            tensors[f"{weight.name}.right"] = np.stack(right).astype(np.float32)
    header = PatchHeader(
        base=repository.base_id,
        weights={
            w.name: WeightForm(form="dense" if dense else "low_rank", d_out=D_OUT, d_in=D_IN, quantum=QUANTUM)
            for w in EDITABLE
        },
        columns=tuple(PatchColumn(fact=each.id, role=role) for each in facts),
        provenance=repository.blobs.put(canonical_json({"seed": seed})),
    )
    patch = PatchId(repository.blobs.put(save(tensors, header.to_metadata())))
    columns: list[ColumnId] = []
    bounds: dict[str, tuple[float, ...]] = {}
    if dense:
        columns = [ColumnId(digest("column", b"dense" + patch.encode()))]
        bounds = {w.name: (float(np.abs(tensors[f"{w.name}.dense"]).max() / quanta),) for w in EDITABLE}
    else:
        for n, each in enumerate(facts):
            identity: dict[str, JsonValue] = {"base": repository.base_id, "fact": each.id, "role": role}
            payload = canonical_json(identity)
            for w in sorted(EDITABLE, key=lambda w: w.name):
                left_column, right_row = tensors[f"{w.name}.left"][:, n], tensors[f"{w.name}.right"][n]
                payload += w.name.encode() + left_column.astype("<f4").tobytes() + right_row.astype("<f4").tobytes()
            columns.append(ColumnId(digest("column", payload)))
        for w in EDITABLE:
            lefts, rights = np.abs(tensors[f"{w.name}.left"]).max(0), np.abs(tensors[f"{w.name}.right"]).max(1)
            bounds[w.name] = tuple(float(v) for v in lefts * rights / quanta)
    blob = repository.blobs.put(f"constraints {patch}".encode()) if constraints else None
    return Patch(patch, header, tuple(columns), bounds, blob)


def travelling(repository: Repository) -> list[BlobId]:
    """The objects without the records of commits: what a remote needs under `objects/`."""
    with closing(sqlite3.connect(repository.root / "meta.db")) as connection:
        records = {row[0] for row in connection.execute("SELECT record FROM commits UNION SELECT record FROM kept")}
    return [blob for blob in repository.blobs.iterate() if blob not in records]


def record(
    repository: Repository,
    facts: Sequence[Fact] = (),
    *,
    removes: Sequence[ColumnId] = (),
    parents: Sequence[CommitId] | None = None,
    branch: str | None = "main",
    message: str = "edit",
    kind: str = "commit",
    patch: Patch | None = None,
) -> Commit:
    """Publish one commit that edits `facts` in, on `branch` (made if absent; None moves no ref)."""
    name = f"heads/{branch}"
    old = repository.refs().get(name) if branch else None
    if parents is None:
        parents = [old or repository.head().commit]
    if patch is None and facts:
        patch = put_patch(repository, facts)
    made = Commit(
        base=repository.base_id,
        parents=tuple(parents),
        adds=tuple(sorted(patch.columns)) if patch else (),
        removes=tuple(sorted(removes)),
        patches=(patch.id,) if patch else (),
        kind=kind,
        message=message,
        author="Ada <ada@example.org>",
        time="2026-01-31T12:00:00Z",
    )
    repository.publish(
        verb=kind,
        description=message,
        commits=[made],
        patches=[patch] if patch else [],
        facts=facts,
        refs=[RefUpdate(name, old, made.id)] if branch else [],
    )
    return made
