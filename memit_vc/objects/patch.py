"""What a patch says of itself, without its tensors: the one metadata key of its safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from memit_vc.objects.base import BaseManifest, EditableWeight
from memit_vc.objects.ids import BaseId, BlobId, ColumnId, FactId, JsonValue, PatchId, canonical_json

PATCH_FORMAT, FORMAT_WITHOUT_FACTS = 1, 2
METADATA_KEY = "memitvc"


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchColumn:
    """One column: the fact it belongs to, and whether it puts the fact in (edit) or takes it out (cancel)."""

    fact: FactId
    role: Literal["edit", "cancel"] = "edit"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightForm:
    """How one weight's update is stored.

    low_rank: tensors `<weight>.left` F32 [d_out, n] and `<weight>.right` F32 [n, d_in];
    joint: the same two tensors with `rank` columns instead of n, which belong to all facts together;
    dense: `<weight>.dense` F32 [d_out, d_in]. All for y = W x, whatever the module's own orientation.
    `quantum` is the exponent e of the grid 2^e on which every product and sum lies (`numerics/exact/grid.py`).
    `parameter`, `layer` and `orientation` are as in `EditableWeight`: a patch without facts has them, for it may touch
    weights that `init` did not record.
    """

    form: Literal["low_rank", "joint", "dense"]
    d_out: int
    d_in: int
    quantum: int
    rank: int | None = None
    parameter: str | None = None
    layer: int | None = None
    orientation: Literal["out_in", "in_out"] | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """What a form does not have is not written: the others are what they were before it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchHeader:
    """Everything in a patch but its numbers. A patch with a dense or joint weight cannot be split by fact.

    Without `columns` it is about no facts: an adapter that was imported. It is one column all the same.
    """

    base: BaseId
    weights: Mapping[str, WeightForm]
    columns: tuple[PatchColumn, ...]
    provenance: BlobId | None

    @property
    def divisible(self) -> bool:
        return all(w.form == "low_rank" for w in self.weights.values())

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "format": PATCH_FORMAT if self.columns else FORMAT_WITHOUT_FACTS,
            "base": self.base,
            "weights": {name: w.to_json() for name, w in self.weights.items()},
            "columns": [{"fact": c.fact, "role": c.role} for c in self.columns],
            "provenance": self.provenance,
        }

    def to_metadata(self) -> dict[str, str]:
        """The safetensors `__metadata__`: exactly one key, so that the file's bytes are reproducible."""
        return {METADATA_KEY: canonical_json(self.to_json()).decode()}

    def described(self, manifest: BaseManifest) -> list[EditableWeight]:
        """The weights that a patch without facts describes, by name; [] for any other. ValueError names one that is not
        a tensor of the base, or has another shape there.
        """
        tensors = {tensor.name: tensor for tensor in manifest.tensors} if not self.columns else {}
        found = []
        for name, form in sorted(self.weights.items()):
            if form.parameter is None or form.layer is None or form.orientation is None or self.columns:
                continue
            tensor, shape = tensors.get(name), (form.d_out, form.d_in)
            if tensor is None or tensor.shape != (shape if form.orientation == "out_in" else shape[::-1]):
                raise ValueError(f"{name!r} is not a tensor of the base, or has another shape there")
            if not _same_place(name, form.parameter):
                raise ValueError(f"{name!r} cannot be the parameter {form.parameter!r} of the model")
            found.append(
                EditableWeight(
                    name=name,
                    parameter=form.parameter,
                    layer=form.layer,
                    orientation=form.orientation,
                    d_out=form.d_out,
                    d_in=form.d_in,
                    dtype=tensor.dtype,
                    quantum=form.quantum,
                )
            )
        return found

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> PatchHeader:
        """Inverse of `to_json`; KeyError or TypeError on a record of another shape."""
        return cls(
            base=BaseId(record["base"]),
            weights={name: WeightForm(**form) for name, form in record["weights"].items()},
            columns=tuple(PatchColumn(**column) for column in record["columns"]),
            provenance=record["provenance"],
        )


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch as the repository knows it; its bytes are the blob `id`.

    `columns` has one id for each column of the header, but one in total for a patch that cannot be split.
    `bounds` gives, per weight and column, max|left|·max|right| in units of the weight's grid (dense: max|entry|).
    """

    id: PatchId
    header: PatchHeader
    columns: tuple[ColumnId, ...]
    bounds: Mapping[str, tuple[float, ...]]
    constraints: BlobId | None = None


def _same_place(tensor: str, parameter: str) -> bool:
    """Whether a tensor's name and a parameter's are the same from the first number on, which is the layer's: in front,
    a checkpoint may have the name of the base model or of a wrapper, or lack it.
    """
    parts = parameter.split(".")
    layer = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
    return tensor.split(".")[layer - len(parts) :] == parts[layer:]
