"""`base.json`: what a history must know of its base. A repository and a remote have it alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from memit_vc.objects.base import BaseManifest, EditableWeight
from memit_vc.objects.ids import JsonValue, canonical_json

BASE = "base.json"


@dataclass(frozen=True)
class BaseRecord:
    """Every tensor, the weights that patches may touch, and the other files (name → SHA-256)."""

    manifest: BaseManifest
    weights: tuple[EditableWeight, ...]
    files: Mapping[str, str]

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "files": dict(self.files),
            "manifest": self.manifest.to_json(),
            "weights": [weight.to_json() for weight in self.weights],
        }

    def encode(self) -> bytes:
        return canonical_json(self.to_json())

    def rows(self) -> dict[str, str]:
        """The same as rows of the table `meta`."""
        texts = {key: canonical_json(value).decode() for key, value in self.to_json().items()}
        return {"base_id": self.manifest.id, **texts}

    @classmethod
    def parse(cls, data: bytes) -> BaseRecord:
        """Inverse of `encode`, for bytes that this repository wrote; ValueError, KeyError, … for others."""
        record = json.loads(data)
        return cls(
            BaseManifest.from_json(record["manifest"]),
            tuple(map(EditableWeight.from_json, record["weights"])),
            dict(record["files"]),
        )
