"""The base: what `init` records about an untouched checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from memit_vc.objects.ids import BaseId, JsonValue, canonical_json, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRecord:
    """One tensor of the checkpoint; `dtype` in safetensors' spelling (F32, BF16, F16), `file` relative to the base."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EditableWeight:
    """A weight that patches may touch.

    `name` is the tensor's name in the checkpoint (the physical tensor where weights are tied), `parameter` its name in
    the loaded transformers model. `orientation` is out_in for Linear ([d_out, d_in] as stored), in_out for Conv1D.
    `quantum` is the exponent of the grid (`numerics/exact/grid.py`). `expert` is the expert's number if the loaded
    model has one `parameter` for all experts of a layer; else None, and not recorded.
    """

    name: str
    parameter: str
    layer: int
    orientation: Literal["out_in", "in_out"]
    d_out: int
    d_in: int
    dtype: str
    quantum: int
    expert: int | None = None

    def to_json(self) -> dict[str, JsonValue]:
        return {name: value for name, value in asdict(self).items() if name != "expert" or value is not None}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> EditableWeight:
        return cls(**record)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseManifest:
    """Every tensor of the base, sorted by name. The fingerprint does not depend on files or sharding.

    If one tensor holds all experts of a layer, there is a record for each expert's part instead (`store/parts.py`).
    """

    tensors: tuple[TensorRecord, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tensor.name for tensor in self.tensors)

    @property
    def id(self) -> BaseId:
        rows: list[JsonValue] = [
            [t.name, t.dtype, list(t.shape), t.sha256] for t in sorted(self.tensors, key=lambda t: t.name)
        ]
        return BaseId(digest("base", canonical_json(rows)))

    def to_json(self) -> list[JsonValue]:
        return [asdict(tensor) for tensor in self.tensors]

    @classmethod
    def from_json(cls, records: list[Mapping[str, Any]]) -> BaseManifest:
        return cls(tensors=tuple(TensorRecord(**{**record, "shape": tuple(record["shape"])}) for record in records))
