"""Columns of several patches packed into one: same columns, same ids, other file. What `squash` stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from memit_vc.errors import IntegrityError
from memit_vc.numerics.exact.constraints import Constraints, encode_constraints, read_constraints
from memit_vc.numerics.exact.factored import LowRank, stacked
from memit_vc.numerics.exact.patchfile import bounds, column_ids, encode_patch, read_patch, read_weight
from memit_vc.objects import BlobId, ColumnId, JsonValue, Patch, PatchHeader, PatchId, canonical_json, short
from memit_vc.porcelain.history.settings import settings_json, settings_of_record
from memit_vc.repository import Repository
from memit_vc.store.blobs import blob_id
from memit_vc.store.safetensors_file import read_header

_Place: TypeAlias = tuple[PatchId, int]
"""Where a column is: its patch, and its position in there."""


@dataclass(frozen=True)
class Packed:
    """New patches, their blobs (stored before rows), and the patches that had to stay as they are."""

    patches: tuple[Patch, ...]
    blobs: tuple[bytes, ...]
    kept: tuple[PatchId, ...]

    @property
    def ids(self) -> tuple[PatchId, ...]:
        return (*(patch.id for patch in self.patches), *self.kept)

    def columns(self, repository: Repository) -> frozenset[ColumnId]:
        """Every column that these patches hold."""
        held = [*self.patches, *repository.patches(self.kept).values()]
        return frozenset(column for patch in held for column in patch.columns)


def repack(repository: Repository, columns: Sequence[ColumnId]) -> Packed:
    """Pack `columns`, in this order, into one patch.

    The columns of a patch all touch the same weights, and all or none have constraints: columns that differ in that get
    a patch of their own. A dense patch is one column that its own file defines, so it stays. The patches' bytes depend
    on the columns only. IntegrityError if a new patch does not read back as the same columns.
    """
    selection = repository.constraints_of(columns)
    sources = repository.patches(selection)
    kept = tuple(sorted(patch for patch, known in sources.items() if not known.header.divisible))
    places: dict[ColumnId, _Place] = {
        sources[patch].columns[position]: (patch, position)
        for patch, (_, positions) in selection.items()
        if patch not in kept
        for position in positions
    }
    kinds = {patch: _kind(repository, sources[patch]) for patch in {patch for patch, _ in places.values()}}
    groups: dict[str, list[_Place]] = {}
    for column in columns:
        if column in places:
            groups.setdefault(kinds[places[column][0]], []).append(places[column])
    patches, blobs = [], []
    for group in groups.values():
        first = group[0][0]
        if {patch for patch, _ in group} == {first} and len(group) == len(sources[first].columns):
            kept = (*kept, first)  # it is one patch already
            continue
        patch, made = _pack(repository, sources, group)
        patches.append(patch)
        blobs += made
    return Packed(tuple(patches), tuple(blobs), tuple(sorted(kept)))


def _kind(repository: Repository, patch: Patch) -> str:
    """What columns must have in common to be in one patch: the weights, and the tensors of the constraints with the
    sizes that do not count columns.
    """
    blob = _constraints(repository, patch)
    tensors = {} if blob is None else read_header(repository.object_path(blob)).tensors
    sizes = sorted((name, entry.shape[name == "z"]) for name, entry in tensors.items())
    return repr((sorted(patch.header.weights), blob is None, sizes))


def _constraints(repository: Repository, patch: Patch) -> BlobId | None:
    """The patch's constraints blob if it is here: they are optional to pull."""
    return patch.constraints if patch.constraints is not None and repository.blobs.has(patch.constraints) else None


def _pack(
    repository: Repository, sources: Mapping[PatchId, Patch], group: Sequence[_Place]
) -> tuple[Patch, list[bytes]]:
    runs = _runs(group)
    used = {patch for patch, _ in runs}
    first = sources[group[0][0]]
    settings = settings_of_record(repository, (sources[patch].header.provenance for patch, _ in runs))
    origins: list[JsonValue] = [
        {"patch": patch, "provenance": sources[patch].header.provenance, "columns": list(positions)}
        for patch, positions in runs
    ]
    provenance = canonical_json({"algorithm": "repack", "sources": origins, "settings": settings_json(settings)})
    header = PatchHeader(
        base=repository.base_id,
        weights=dict(sorted(first.header.weights.items())),
        columns=tuple(sources[patch].header.columns[position] for patch, position in group),
        provenance=blob_id(provenance),
    )
    tensors = {}
    for name, form in header.weights.items():
        whole = {patch: read_weight(repository.patch_path(patch), (), name) for patch in used}
        parts = [term.select(at) for patch, at in runs if isinstance(term := whole[patch], LowRank)]
        tensors[name] = stacked(parts, form.d_out, form.d_in)
    encoded = encode_patch(header, tensors)
    # the bytes that will be stored, not the arrays they were made of, must be the same columns
    identifier, (_, stored) = PatchId(blob_id(encoded)), read_patch(encoded)
    ids = column_ids(identifier, header, stored)
    expected = tuple(sources[patch].columns[position] for patch, position in group)
    if ids != expected:
        wrong = next(column for column, made in zip(expected, ids, strict=True) if column != made)
        raise IntegrityError(
            f"column {short(wrong)} changed when it was packed", hint="Run `memitvc fsck`: its patch may be damaged."
        )
    blobs = [provenance, encoded]
    constraints = None
    if _constraints(repository, first) is not None:
        found = {patch: _constraints(repository, sources[patch]) for patch in used}
        read = {p: read_constraints(repository.object_path(blob)) for p, blob in found.items() if blob is not None}
        joined = Constraints.joined([read[patch].select(positions) for patch, positions in runs])
        blobs.insert(1, encode_constraints(joined.keys, joined.targets, joined.z))
        constraints = blob_id(blobs[1])
    return Patch(identifier, header, ids, bounds(header, stored), constraints), blobs


def _runs(group: Sequence[_Place]) -> list[tuple[PatchId, tuple[int, ...]]]:
    """Neighbours from one patch together: (patch, positions) in the order of the columns."""
    runs: list[tuple[PatchId, list[int]]] = []
    for patch, position in group:
        if not runs or runs[-1][0] != patch:
            runs.append((patch, []))
        runs[-1][1].append(position)
    return [(patch, tuple(positions)) for patch, positions in runs]
