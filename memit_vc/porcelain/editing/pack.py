"""Snapped tensors as a patch: its bytes, and its record in the history."""

from __future__ import annotations

from collections.abc import Sequence

from memit_vc.numerics.exact.factored import Dense
from memit_vc.numerics.exact.patchfile import PatchTensors, bounds, column_ids, encode_patch
from memit_vc.objects import EditableWeight, Patch, PatchColumn, PatchHeader, PatchId, WeightForm
from memit_vc.repository import Repository
from memit_vc.store.blobs import blob_id


def pack(
    repository: Repository,
    columns: Sequence[PatchColumn],
    tensors: PatchTensors,
    *,
    constraints: bytes | None,
    provenance: bytes,
    joint: bool = False,
    described: Sequence[EditableWeight] = (),
) -> tuple[Patch, tuple[bytes, ...]]:
    """(patch, its blobs with the patch itself last). Nothing is stored.

    `joint`: the tensors' columns belong to all facts together. Without facts, `described` are all its weights, which
    need not be known here. EngineError for tensors off the grid.
    """
    weights = {weight.name: weight for weight in described or repository.weights()}
    joint = joint or not columns
    forms = {}
    for name, term in tensors.items():
        weight, dense = weights[name], isinstance(term, Dense)
        forms[name] = WeightForm(
            form="dense" if dense else "joint" if joint else "low_rank",
            d_out=weight.d_out,
            d_in=weight.d_in,
            quantum=weight.quantum,
            rank=None if isinstance(term, Dense) or not joint else int(term.right.shape[0]),
            parameter=None if columns else weight.parameter,
            layer=None if columns else weight.layer,
            orientation=None if columns else weight.orientation,
        )
    header = PatchHeader(base=repository.base_id, weights=forms, columns=tuple(columns), provenance=blob_id(provenance))
    encoded = encode_patch(header, tensors)
    identifier = PatchId(blob_id(encoded))
    patch = Patch(
        id=identifier,
        header=header,
        columns=column_ids(identifier, header, tensors),
        bounds=bounds(header, tensors),
        constraints=None if constraints is None else blob_id(constraints),
    )
    blobs = (provenance, encoded) if constraints is None else (provenance, constraints, encoded)
    return patch, blobs
