"""What a patch says of itself, without its tensors: the one metadata key of its safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from memit_vc.objects.ids import BaseId, BlobId, ColumnId, FactId, JsonValue, PatchId, canonical_json

PATCH_FORMAT = 1
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
    """

    form: Literal["low_rank", "joint", "dense"]
    d_out: int
    d_in: int
    quantum: int
    rank: int | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """`rank` is written for a joint form only: the others are what they were before it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchHeader:
    """Everything in a patch but its numbers. A patch with a dense or joint weight cannot be split by fact."""

    base: BaseId
    weights: Mapping[str, WeightForm]
    columns: tuple[PatchColumn, ...]
    provenance: BlobId | None

    @property
    def divisible(self) -> bool:
        return all(w.form == "low_rank" for w in self.weights.values())

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "format": PATCH_FORMAT,
            "base": self.base,
            "weights": {name: w.to_json() for name, w in self.weights.items()},
            "columns": [{"fact": c.fact, "role": c.role} for c in self.columns],
            "provenance": self.provenance,
        }

    def to_metadata(self) -> dict[str, str]:
        """The safetensors `__metadata__`: exactly one key, so that the file's bytes are reproducible."""
        return {METADATA_KEY: canonical_json(self.to_json()).decode()}

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

    `columns` has one id for each column of the header, but one in total for a dense patch, which cannot be split.
    `bounds` gives, per weight and column, max|left|·max|right| in units of the weight's grid (dense: max|entry|).
    """

    id: PatchId
    header: PatchHeader
    columns: tuple[ColumnId, ...]
    bounds: Mapping[str, tuple[float, ...]]
    constraints: BlobId | None = None
