"""Second moments and factors on disk, named by everything they depend on.

    <root>/<statistics id>/key.json                   what was asked for
                           layer-<n>.safetensors      C, float32 [d_in, d_in]
                           factor-<n>-<λ>.safetensors the Cholesky factor of λC
                           partial.safetensors        sums of a pass that was cut short

A directory can be copied to another machine. A file that is missing or damaged counts as absent: it is computed again.
Damage is seen by the digests in each file, and is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memit_vc.errors import EngineError, IntegrityError, StorageError
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.statistics.factors import BlockFactor, Factor, factorise, factorise_experts
from memit_vc.numerics.statistics.moments import Moments
from memit_vc.numerics.statistics.tensorfile import count_as_absent, read_metadata, read_tensors, write_tensors
from memit_vc.objects.ids import JsonValue, StatisticsId, canonical_json, digest
from memit_vc.store.files import write_atomic

FORMAT = 1
"""Of the files."""
ALGORITHM = 2
"""Of the way from a corpus to moments: raised when other numbers come out of the same inputs."""
_HELD = 1 << 30
"""Bytes of factors that stay in memory: those of a small model; of a large one each layer's is read when it is used."""
_FLOAT64 = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedWeight:
    """An edited weight: its layer, its name in the checkpoint, and the size d_in of its keys. Of a layer with `experts`
    the name is the one in the loaded model, and d_in is the size of the stacked key.
    """

    layer: int
    name: str
    d_in: int
    experts: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the second moment."""
        if self.experts is None:
            return self.d_in, self.d_in
        size = self.d_in // self.experts
        return self.experts, size, size

    def to_json(self) -> dict[str, JsonValue]:
        """Dense layers do not record how many experts they have."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsKey:
    """All that second moments depend on.

    `base` is the base's id, `tokenizer` a digest of how text becomes tokens, `corpus` what `Corpus.describe()` says
    (its `name` is kept for people and is not part of the id: a renamed file is the same text), `tokens` the number
    asked for, `dtype` the one the model computed in ("float32").
    """

    base: str
    weights: tuple[KeyedWeight, ...]
    tokenizer: str
    corpus: Mapping[str, JsonValue]
    tokens: int
    max_length: int
    dtype: str
    format: int = FORMAT
    algorithm: int = ALGORITHM

    @classmethod
    def of(
        cls,
        adapter: ModelAdapter,
        *,
        base: str,
        names: Mapping[int, str],
        corpus: Mapping[str, JsonValue],
        tokens: int,
        max_length: int = 512,
    ) -> StatisticsKey:
        """The key for a loaded model; `names[layer]` is the edited weight's name in the checkpoint."""
        return cls(
            base=base,
            weights=tuple(
                KeyedWeight(
                    layer=n,
                    name=names[n],
                    d_in=adapter.dimensions(n)[1],
                    experts=None if (experts := adapter.experts(n)) is None else experts.count,
                )
                for n in sorted(names)
            ),
            tokenizer=_tokenizer_digest(adapter.tokenizer),
            corpus=dict(corpus),
            tokens=tokens,
            max_length=max_length,
            dtype=str(adapter.dtype).removeprefix("torch."),
        )

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(weight.layer for weight in self.weights)

    @property
    def id(self) -> StatisticsId:
        record = self.to_json()
        record["corpus"] = {name: value for name, value in self.corpus.items() if name != "name"}
        return StatisticsId(digest("statistics", canonical_json(record)))

    def to_json(self) -> dict[str, JsonValue]:
        return {**asdict(self), "weights": [weight.to_json() for weight in self.weights]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> StatisticsKey:
        weights = tuple(KeyedWeight(**weight) for weight in record["weights"])
        return cls(**{**record, "weights": weights})


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        record: JsonValue = {"class": type(tokenizer).__name__, "vocabulary": dict(tokenizer.get_vocab())}
        return digest("tokenizer", canonical_json(record))
    # truncation and padding are settings of the last call, not of the tokenizer
    described = json.loads(backend.to_str())
    return digest("tokenizer", canonical_json({**described, "truncation": None, "padding": None}))


class StatisticsCache:
    """The statistics below `root` (`.memitvc/statistics`). Small factors that were used stay in memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._factors: dict[tuple[str, int, float], Factor | BlockFactor] = {}

    def directory(self, key: StatisticsKey | StatisticsId) -> Path:
        return self.root / _id(key)

    def partial(self, key: StatisticsKey) -> Path:
        """Where `collect(resume=…)` keeps a pass that may be cut short."""
        return self.directory(key) / "partial.safetensors"

    def ready(self, key: StatisticsKey) -> bool:
        """Whether the moments of every layer are there, by their headers; nothing large is read."""
        for weight in key.weights:
            try:
                metadata = read_metadata(self._layer(key, weight.layer))
            except FileNotFoundError:
                return False
            except IntegrityError as error:
                count_as_absent(error)
                return False
            if metadata.get("kind") != "moment" or metadata.get("d_in") != weight.d_in:
                return False
        return True

    def count(self, key: StatisticsKey) -> int:
        """Tokens behind the moments of `ready` statistics: fewer than were asked for if the text is short."""
        counts = [read_metadata(self._layer(key, weight.layer)).get("count") for weight in key.weights]
        return min((count for count in counts if isinstance(count, int)), default=0)

    def store(self, key: StatisticsKey, moments: Moments) -> None:
        """Write the moments of every layer of the key; factors of earlier ones go. EngineError, StorageError."""
        directory = self.directory(key)
        for weight in key.weights:
            _check(moments, weight)
        try:
            for stale in [*directory.glob("factor-*.safetensors")]:
                stale.unlink()
        except OSError as error:
            raise StorageError(f"{directory}: {error}", hint="Check the permissions of the repository.") from error
        self._factors = {known: factor for known, factor in self._factors.items() if known[0] != key.id}
        for weight in key.weights:
            matrix = moments.moment[weight.layer].float().cpu()
            metadata: dict[str, JsonValue] = {
                "kind": "moment",
                "layer": weight.layer,
                "weight": weight.name,
                "d_in": weight.d_in,
                "count": moments.count,
            }
            write_tensors(self._layer(key, weight.layer), {"moment": matrix}, metadata)
        write_atomic(directory / "key.json", canonical_json(key.to_json()) + b"\n")
        with suppress(OSError):
            self.partial(key).unlink(missing_ok=True)

    def factor(self, key: StatisticsKey | StatisticsId, layer: int, weight: float) -> Factor | BlockFactor:
        """The factor of λC for λ = `weight`, from memory, from disk, or computed from the moments and kept. That of a
        layer with experts is not kept on disk: its size is the moments', and it is computed as fast as it is read.

        EngineError if there are no moments of this layer or they cannot be factored.
        """
        identifier = (_id(key), layer, float(weight))
        found = self._factors.get(identifier)
        if found is None:
            found = self._factor(key, layer, float(weight))
            held = sum(factor.numel for factor in self._factors.values()) * _FLOAT64
            lost = isinstance(found, Factor) and not self._factor_path(key, layer, weight).exists()
            if held + found.numel * _FLOAT64 <= _HELD or lost:
                self._factors[identifier] = found
        return found

    def ridge(self, key: StatisticsKey | StatisticsId, layer: int, weight: float) -> tuple[float, int]:
        """The ridge of `factor`, and how many of the layer's experts got one. A dense layer's factor is on disk
        afterwards; one that is there already is not read. EngineError.
        """
        with suppress(FileNotFoundError, IntegrityError):
            metadata = read_metadata(self._factor_path(key, layer, weight))
            ridge = metadata.get("ridge")
            if isinstance(ridge, int | float) and metadata.get("size") == self._size(key, layer):
                return float(ridge), 0
        factor = self.factor(key, layer, weight)
        return factor.ridge, factor.ridges if isinstance(factor, BlockFactor) else 0

    def _factor_path(self, key: StatisticsKey | StatisticsId, layer: int, weight: float) -> Path:
        return self.directory(key) / f"factor-{layer}-{float(weight)!r}.safetensors"

    def _factor(self, key: StatisticsKey | StatisticsId, layer: int, weight: float) -> Factor | BlockFactor:
        path = self._factor_path(key, layer, weight)
        expected = self._size(key, layer)
        try:
            factor = Factor.load(path)
            if factor.size == expected:
                return factor
        except FileNotFoundError:
            pass
        except IntegrityError as error:
            count_as_absent(error)
        found = _read_layer(self._layer(key, layer), expected)
        if found is None:
            with suppress(OSError):  # its header may look whole: `ready` must not say so once more
                self._layer(key, layer).unlink(missing_ok=True)
            raise EngineError(
                f"there are no usable statistics of layer {layer} in {self.directory(key)}",
                hint="Compute them again: `memitvc stats`.",
            )
        if found[0].ndim == 3:
            return factorise_experts(found[0], weight)
        factor = factorise(found[0], weight)
        with suppress(StorageError):  # a full or read-only disk costs the next process a second, not this one its edit
            factor.save(path)
        return factor

    def _size(self, key: StatisticsKey | StatisticsId, layer: int) -> int | None:
        if isinstance(key, StatisticsKey):
            return next((w.d_in for w in key.weights if w.layer == layer), None)
        with suppress(FileNotFoundError, IntegrityError):
            size = read_metadata(self._layer(key, layer)).get("d_in")
            return size if isinstance(size, int) else None
        return None

    def _layer(self, key: StatisticsKey | StatisticsId, layer: int) -> Path:
        return self.directory(key) / f"layer-{layer}.safetensors"


def _id(key: StatisticsKey | StatisticsId) -> str:
    return key.id if isinstance(key, StatisticsKey) else key


def _read_layer(path: Path, size: int | None) -> tuple[Tensor, int] | None:
    try:
        tensors, metadata = read_tensors(path)
    except FileNotFoundError:
        return None
    except IntegrityError as error:
        count_as_absent(error)
        return None
    matrix, count = tensors.get("moment"), metadata.get("count")
    if matrix is None or matrix.dtype != torch.float32 or not isinstance(count, int):
        return None
    if matrix.ndim == 3:  # of each expert of a layer
        whole = matrix.shape[0] * matrix.shape[1] == size and matrix.shape[1] == matrix.shape[2]
    else:
        whole = matrix.shape == (size, size)
    return (matrix, count) if whole else None


def _check(moments: Moments, weight: KeyedWeight) -> None:
    matrix = moments.moment.get(weight.layer)
    if matrix is None or matrix.shape != weight.shape:
        shape = "nothing" if matrix is None else f"shape {tuple(matrix.shape)}"
        raise EngineError(
            f"layer {weight.layer} ({weight.name}) has keys of size {weight.d_in}; its second moment has {shape}",
            hint="Compute them with `memitvc stats`: these belong to another model.",
        )
    if not bool(matrix.isfinite().all()):
        raise EngineError(f"the second moment of layer {weight.layer} ({weight.name}) is not finite")
