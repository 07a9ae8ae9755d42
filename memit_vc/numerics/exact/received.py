"""Patches that someone else made: everything is checked against this repository's base before anything is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

from memit_vc.errors import IntegrityError
from memit_vc.numerics.exact.constraints import Constraints, read_constraints
from memit_vc.numerics.exact.patchfile import bounds, column_ids, read_patch
from memit_vc.objects import BaseId, BaseManifest, BlobId, EditableWeight, Patch, PatchId, short

_HINT = "Do not trust the file: it is damaged or forged. Nothing was stored."


def received_patch(
    data: bytes,
    constraints: bytes | None,
    *,
    base: BaseId,
    manifest: BaseManifest,
    weights: Sequence[EditableWeight],
    others: Sequence[EditableWeight] = (),
) -> Patch:
    """A patch blob (and its constraints) as the repository would record it; ids and bounds are computed, not believed.

    A patch without facts may touch more than `weights`: it describes them, as earlier ones did with `others`. The grids
    of those that are in neither are the caller's to check.
    IntegrityError as for `read_patch` and `read_constraints`, and for another base, weights that this base does not
    have or has in another shape or on another grid, constraints that do not go with the patch, a column held twice.
    """
    patch = PatchId(sha256(data).hexdigest())
    where = f"patch {short(patch)}"
    header, tensors = read_patch(data)
    if header.base != base:
        raise IntegrityError(
            f"{where} belongs to base {short(header.base)}, this repository has {short(base)}",
            hint="Use a repository on the same base model and revision.",
        )
    try:
        described = {weight.name: weight for weight in header.described(manifest)}
    except ValueError as error:
        raise IntegrityError(f"{where}: {error}", hint=_HINT) from error
    known = {weight.name: weight for weight in weights}
    if not header.columns:
        known = {**described, **{weight.name: weight for weight in others}, **known}
    for name, form in header.weights.items():
        weight = known.get(name)
        if weight is None:
            raise IntegrityError(f"{where} changes {name!r}, which is not an editable weight of this base", hint=_HINT)
        if (form.d_out, form.d_in, form.quantum) != (weight.d_out, weight.d_in, weight.quantum):
            raise IntegrityError(
                f"{where}: {name!r} is {form.d_out} × {form.d_in} on the grid 2^{form.quantum}, "
                f"the base has {weight.d_out} × {weight.d_in} on 2^{weight.quantum}",
                hint=_HINT,
            )
        if weight != described.get(name, weight):
            raise IntegrityError(f"{where} describes {name!r} as another matrix than this repository", hint=_HINT)
    columns = column_ids(patch, header, tensors)
    if len(set(columns)) != len(columns):
        raise IntegrityError(f"{where} holds a column twice", hint=_HINT)
    blob = None
    if constraints is not None:
        blob = BlobId(sha256(constraints).hexdigest())
        found = read_constraints(constraints)
        if not constraints_fit(found, known, len(header.columns)):
            raise IntegrityError(f"{where}: its constraints {short(blob)} are of other facts or weights", hint=_HINT)
    return Patch(patch, header, columns, bounds(header, tensors), blob)


def constraints_fit(found: Constraints, known: Mapping[str, EditableWeight], columns: int) -> bool:
    """Whether keys, targets and z have the sizes of the base's weights, and every layer with keys has targets; and
    whether they are of as many facts as the patch has columns.
    """
    if not found.keys.keys() <= known.keys():
        return False
    layers = {known[name].layer for name in found.keys}
    told = {known[name].layer for name in found.targets}
    single = {name for name in found.keys if known[name].expert is None}
    sizes = [(keys.shape[0], known[name].d_in) for name, keys in found.keys.items()]
    sizes += [(targets.shape[0], known[name].d_out) for name, targets in found.targets.items()]
    widths = {known[name].d_out for name in found.keys} or {found.z.shape[1]}
    return (
        found.n == columns
        and found.z.shape[1] in widths
        and layers == told
        and single <= found.targets.keys()
        and all(one == other for one, other in sizes)
    )
