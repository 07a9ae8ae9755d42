"""Columns of several patches packed into one: same columns, same ids, other file. What `squash` stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from memit_vc.errors import IntegrityError
from memit_vc.objects import BlobId, ColumnId, JsonValue, Patch, PatchHeader, PatchId, canonical_json, short
from memit_vc.porcelain.history.settings import settings_json, settings_of_record
from memit_vc.repository import Repository
from memit_vc.store.blobs import blob_id

_Key: TypeAlias = "tuple[tuple[str, ...], tuple[str, ...] | None]"


@dataclass(frozen=True)
class Packed:
    """New patches with their blobs (to be put before rows), and the patches that had to stay as they are."""

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


@dataclass(frozen=True)
class _Place:
    column: ColumnId
    patch: PatchId
    position: int


def repack(repository: Repository, columns: Sequence[ColumnId]) -> Packed:
    """Pack `columns`, in this order, into one patch.

    A patch's columns all touch the same weights and have constraints or have none: columns that differ in that get a
    patch of their own. A dense patch is one column that its own file defines, so it stays. The patches' bytes depend on
    the columns only. IntegrityError where what was packed does not read back as the same columns.
    """
    selection = repository.constraints_of(columns)
    sources = repository.patches(selection)
    kept = tuple(sorted(patch for patch, known in sources.items() if not known.header.divisible))
    places = {
        sources[patch].columns[position]: _Place(sources[patch].columns[position], patch, position)
        for patch, (_, positions) in selection.items()
        if patch not in kept
        for position in positions
    }
    reader = _Reader(repository, sources)
    groups: dict[_Key, list[_Place]] = {}
    for column in columns:
        if column in places:
            place = places[column]
            groups.setdefault(reader.key(place.patch), []).append(place)
    patches, blobs = [], []
    for group in groups.values():
        if {place.patch for place in group} == {group[0].patch} and len(group) == len(sources[group[0].patch].columns):
            kept = (*kept, group[0].patch)  # it is one patch already
            continue
        patch, made = _pack(repository, reader, group)
        patches.append(patch)
        blobs += made
    return Packed(tuple(patches), tuple(blobs), tuple(sorted(kept)))


@dataclass(frozen=True)
class _Reader:
    """The patches that columns come from, and their constraints."""

    repository: Repository
    sources: Mapping[PatchId, Patch]

    def constraints(self, patch: PatchId) -> BlobId | None:
        """The patch's constraints blob where it is here: they are optional to pull."""
        blob = self.sources[patch].constraints
        return blob if blob is not None and self.repository.blobs.has(blob) else None

    def key(self, patch: PatchId) -> _Key:
        from memit_vc.store.safetensors_file import read_header

        weights = tuple(sorted(self.sources[patch].header.weights))
        blob = self.constraints(patch)
        return weights, None if blob is None else tuple(sorted(read_header(self.repository.blobs.path(blob)).tensors))


def _pack(repository: Repository, reader: _Reader, group: Sequence[_Place]) -> tuple[Patch, list[bytes]]:
    from memit_vc.numerics.exact.constraints import Constraints, encode_constraints, read_constraints
    from memit_vc.numerics.exact.factored import LowRank, stacked
    from memit_vc.numerics.exact.patchfile import bounds, column_ids, encode_patch, read_patch, read_weight

    runs = _runs(group)
    used = {patch for patch, _ in runs}
    first = reader.sources[group[0].patch].header
    settings = settings_of_record(repository, (reader.sources[patch].header.provenance for patch, _ in runs))
    origin: dict[str, JsonValue] = {
        "algorithm": "repack",
        "sources": _origins(reader, runs),
        "settings": settings_json(settings),
    }
    provenance = canonical_json(origin)
    header = PatchHeader(
        base=repository.base_id,
        weights={name: first.weights[name] for name in sorted(first.weights)},
        columns=tuple(reader.sources[place.patch].header.columns[place.position] for place in group),
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
    expected = tuple(place.column for place in group)
    if ids != expected:
        wrong = next(column for column, made in zip(expected, ids, strict=True) if column != made)
        raise IntegrityError(
            f"column {short(wrong)} was not packed as it is", hint="Run `memitvc fsck`: its patch may be damaged."
        )
    blobs = [provenance, encoded]
    constraints = None
    if reader.constraints(group[0].patch) is not None:
        found = {patch: reader.constraints(patch) for patch in used}
        read = {p: read_constraints(repository.blobs.path(blob)) for p, blob in found.items() if blob is not None}
        joined = Constraints.joined([read[patch].select(positions) for patch, positions in runs])
        blobs.insert(1, encode_constraints(joined.keys, joined.targets, joined.z))
        constraints = blob_id(blobs[1])
    return Patch(identifier, header, ids, bounds(header, stored), constraints), blobs


def _runs(group: Sequence[_Place]) -> list[tuple[PatchId, tuple[int, ...]]]:
    """Neighbours from one patch together: (patch, positions) in the order of the columns."""
    runs: list[tuple[PatchId, list[int]]] = []
    for place in group:
        if not runs or runs[-1][0] != place.patch:
            runs.append((place.patch, []))
        runs[-1][1].append(place.position)
    return [(patch, tuple(positions)) for patch, positions in runs]


def _origins(reader: _Reader, runs: Sequence[tuple[PatchId, tuple[int, ...]]]) -> list[JsonValue]:
    """Where the columns come from: patch, its provenance, how many of its columns."""
    return [
        {"patch": patch, "provenance": reader.sources[patch].header.provenance, "columns": list(positions)}
        for patch, positions in runs
    ]
