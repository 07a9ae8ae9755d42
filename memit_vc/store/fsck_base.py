"""What the database says of the base, and what was measured on states: checked against ids and against each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, select

from memit_vc.objects import BaseId, BaseManifest, EditableWeight, PatchHeader
from memit_vc.store.records import Problem
from memit_vc.store.schema import evaluations, meta, patches

__all__ = ["check_base", "check_evaluations"]

_BAD_JSON = (KeyError, TypeError, ValueError, AttributeError)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_base(connection: Connection, base: BaseId) -> Iterator[Problem]:
    """Manifest, editable weights and files of the base."""
    rows = {row.key: row.value for row in connection.execute(select(meta))}
    for key in ("manifest", "weights", "files"):
        if key not in rows:
            yield Problem("base", key, "the database has no such record")
    try:
        manifest = BaseManifest.from_json(json.loads(rows["manifest"]))
        whole = manifest.id == base
    except _BAD_JSON:
        whole = False
    if not whole:
        yield Problem("base", "manifest", "the recorded tensors do not hash to the base's id")
        return
    try:
        weights = {weight.name: weight for weight in map(EditableWeight.from_json, json.loads(rows["weights"]))}
    except _BAD_JSON:
        yield Problem("base", "weights", "the record of the editable weights cannot be read")
        return
    yield from _weights(connection, manifest, weights)
    try:
        files = json.loads(rows["files"])
        known = all(_is_hash(sha) for sha in files.values())
    except _BAD_JSON:
        known = False
    if not known:
        yield Problem("base", "files", "the record of the base's other files cannot be read")


def check_evaluations(connection: Connection, weights: set[str]) -> Iterator[Problem]:
    """Hashes of tensors that `verify` compares with: each of a weight that can be edited, each a SHA-256."""
    statement = select(evaluations).where(evaluations.c.kind == "tensors")
    for row in connection.execute(statement):
        try:
            found = json.loads(row.json)
            whole = all(name in weights and _is_hash(sha) for name, sha in found.items())
        except _BAD_JSON:
            whole = False
        if not whole:
            yield Problem("evaluation", row.state, "its hashes of tensors cannot be read as such")


def _weights(
    connection: Connection, manifest: BaseManifest, weights: Mapping[str, EditableWeight]
) -> Iterator[Problem]:
    tensors = {tensor.name: tensor for tensor in manifest.tensors}
    for name, weight in weights.items():
        tensor = tensors.get(name)
        shape = (weight.d_out, weight.d_in) if weight.orientation == "out_in" else (weight.d_in, weight.d_out)
        if tensor is None or (tensor.dtype, tensor.shape) != (weight.dtype, shape):
            yield Problem("base", name, "its record as an editable weight differs from that of the tensor")
    for row in connection.execute(select(patches.c.id, patches.c.header)):
        try:
            forms = PatchHeader.from_json(json.loads(row.header)).weights
        except _BAD_JSON:
            continue  # told with the patches
        for name, form in forms.items():
            own = weights.get(name)
            if own is None or (own.d_out, own.d_in, own.quantum) != (form.d_out, form.d_in, form.quantum):
                yield Problem("base", name, f"its record differs from patch {row.id[:10]}, which edits it")


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None
