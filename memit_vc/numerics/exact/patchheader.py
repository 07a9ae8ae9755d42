"""The header of a patch read from bytes that someone else may have written: parsed, never trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping

from memit_vc.errors import IntegrityError
from memit_vc.objects import METADATA_KEY, PatchHeader, is_sha256
from memit_vc.objects.patch import PATCH_FORMAT
from memit_vc.store.safetensors_file import FileHeader

_HINT = "Fetch the blob again: it is damaged, or was not written by memit-vc."


def decode_header(metadata: Mapping[str, str], where: str) -> PatchHeader:
    """The header in a safetensors `__metadata__`, which must be exactly what `PatchHeader.to_metadata` gives.

    IntegrityError for anything else; a format version that this release does not know is said first.
    """
    if set(metadata) != {METADATA_KEY}:
        raise IntegrityError(f"{where}: is not a patch: its metadata keys are {sorted(metadata)}", hint=_HINT)
    try:
        record = json.loads(metadata[METADATA_KEY])
        version = record["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{where}: is not a patch: its metadata has no format version", hint=_HINT) from error
    if version != PATCH_FORMAT:
        raise IntegrityError(
            f"{where}: has patch format {version!r}, this memit-vc reads {PATCH_FORMAT}", hint="Upgrade memit-vc."
        )
    try:
        header = PatchHeader.from_json(record)
        canonical = header.to_metadata() == dict(metadata)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise IntegrityError(
            f"{where}: its header lacks a field or has one of another type: {error}", hint=_HINT
        ) from error
    problem = _problem(header)
    if problem is None and not canonical:
        problem = "is not canonical JSON of the fields that the format has"
    if problem is not None:
        raise IntegrityError(f"{where}: its header {problem}", hint=_HINT)
    return header


def expected_tensors(header: PatchHeader) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, as the header implies them."""
    n = len(header.columns)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, form in header.weights.items():
        if form.form == "dense":
            shapes[f"{name}.dense"] = (form.d_out, form.d_in)
        else:
            rank = n if form.rank is None else form.rank
            shapes[f"{name}.left"], shapes[f"{name}.right"] = (form.d_out, rank), (rank, form.d_in)
    return shapes


def check_layout(header: PatchHeader, file: FileHeader, where: str) -> None:
    """The file's tensors against the header's, before any is read. IntegrityError."""
    expected = expected_tensors(header)
    if file.tensors.keys() != expected.keys():
        raise IntegrityError(
            f"{where}: its tensors are {sorted(file.tensors)}, its header says {sorted(expected)}", hint=_HINT
        )
    for name, shape in expected.items():
        entry = file.tensors[name]
        if entry.dtype != "F32" or entry.shape != shape:
            raise IntegrityError(
                f"{where}: tensor {name!r} is {entry.dtype} {list(entry.shape)}, its header says F32 {list(shape)}",
                hint=_HINT,
            )


def _problem(header: PatchHeader) -> str | None:
    hashes = [header.base, *(column.fact for column in header.columns)]
    if header.provenance is not None:
        hashes.append(header.provenance)
    if not all(map(is_sha256, hashes)):
        return "has a base, fact or provenance that is not a SHA-256"
    if not header.columns or not header.weights:
        return "lists no columns or no weights"
    if any(column.role not in ("edit", "cancel") for column in header.columns):
        return "has a column whose role is neither edit nor cancel"
    for name, form in header.weights.items():
        numbers = (form.d_out, form.d_in, form.quantum)
        if not all(type(number) is int for number in numbers) or min(form.d_out, form.d_in) < 1:
            return f"gives weight {name!r} sizes or a quantum that are not whole numbers"
        if form.form not in ("low_rank", "joint", "dense") or not -256 < form.quantum < 256:
            return f"gives weight {name!r} the form {form.form!r} and the quantum {form.quantum}"
        if (form.form == "joint") != (type(form.rank) is int and form.rank >= 0):
            return f"gives weight {name!r} the form {form.form!r} and the rank {form.rank!r}"
    return None
