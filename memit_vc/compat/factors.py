"""The factored λC of each layer for a model outside any repository: given, imported, cached, or collected once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from memit_vc.config import user_cache
from memit_vc.errors import EngineError, StorageError, UsageError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.masters import set_aside
from memit_vc.numerics.statistics.cache import StatisticsCache, StatisticsKey
from memit_vc.numerics.statistics.corpus import NAMED, open_corpus
from memit_vc.numerics.statistics.factors import BlockFactor, Factor, factorise
from memit_vc.numerics.statistics.import_npz import Asked, find_statistics, read_statistics
from memit_vc.numerics.statistics.moments import collect
from memit_vc.objects.ids import JsonValue, canonical_json, digest
from memit_vc.porcelain.setup import DEFAULT_CORPUS, TOKENS_PER_INPUT
from memit_vc.progress import Progress, silent
from memit_vc.remote.hub_corpus import find_dataset

_LOG = logging.getLogger(__name__)
_SOURCES = ("model_name", "stats_dir", "mom2_dataset", "mom2_n_samples", "mom2_dtype")
"""Keys of the hyperparameters that say which second moments are meant."""


class FactorSource:
    """`source(layer)` is the factor of λC of that layer of one model.

    C comes, in this order, from `statistics` (layer to C [d_in, d_in]); from EasyEdit's and memit's files below
    `hparams.stats_dir`; from the user's cache; else from one pass over text, which is then kept in that cache. The text
    is `hparams.mom2_dataset` where that names a file or a corpus of ours (`NAMED`, "hub:…"), else text sampled from the
    model itself ("self"): nothing is downloaded for a data set's bare name.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        hparams: MEMITHyperParams,
        statistics: Mapping[int, Tensor] | None = None,
        *,
        cache: Path | None = None,
        progress: Progress = silent,
    ) -> None:
        if statistics is not None and not isinstance(statistics, Mapping):
            raise UsageError(
                f"statistics is a {type(statistics).__name__}, not a dict", hint="Give {layer: C}, or leave it out."
            )
        self._adapter, self._hparams, self._given, self._progress = adapter, hparams, statistics, progress
        self._cache = StatisticsCache(user_cache() / "statistics" if cache is None else cache)
        self._factors: dict[tuple[str, int, float], Factor | BlockFactor] = {}
        self._moments: dict[str, Mapping[int, Tensor] | StatisticsKey] = {}

    def __call__(self, layer: int) -> Factor | BlockFactor:
        key = (self._asked(), layer, self._hparams.mom2_update_weight)
        if key not in self._factors:
            self._factors[key] = self._factor(layer)
        return self._factors[key]

    def for_hparams(self, adapter: ModelAdapter, hparams: MEMITHyperParams) -> FactorSource:
        """The same source, asked for what other hyperparameters name in the same model; what was found stays."""
        self._adapter, self._hparams = adapter, hparams
        return self

    def find(self, base: Mapping[str, Tensor]) -> None:
        """Find C of all layers now, if it is not known, in the model with the weights `base` by name."""
        if self._given is None and self._asked() not in self._moments:
            with set_aside(self._adapter.model, base):
                self._found()

    def _asked(self) -> str:
        """All that C depends on: the layers, their weights, and where the second moments come from."""
        values, layers = self._hparams.to_json(), self._hparams.layers
        names: list[JsonValue] = [self._adapter.parameter_name(layer) for layer in layers]
        return digest("asked", canonical_json([list(layers), names, {name: values[name] for name in _SOURCES}]))

    def _factor(self, layer: int) -> Factor | BlockFactor:
        weight = self._hparams.mom2_update_weight
        if self._given is not None:
            return factorise(self._checked(layer), weight)
        found = self._found()
        if isinstance(found, StatisticsKey):
            return self._cache.factor(found, layer, weight)
        return factorise(found[layer], weight)

    def _found(self) -> Mapping[int, Tensor] | StatisticsKey:
        asked = self._asked()
        if asked not in self._moments:
            self._moments[asked] = self._imported() or self._collected()
        return self._moments[asked]

    def _checked(self, layer: int) -> Tensor:
        assert self._given is not None  # noqa: S101 (for the type checker)
        size = self._adapter.dimensions(layer)[1]
        matrix = self._given.get(layer)
        if matrix is None:
            raise EngineError(
                f"statistics has no layer {layer}; it has {sorted(self._given, key=str)}",
                hint=f"Give C [{size}, {size}] for each of hparams.layers {self._hparams.layers}.",
            )
        if not isinstance(matrix, Tensor):
            raise UsageError(
                f"statistics[{layer}] is a {type(matrix).__name__}, not a tensor", hint="Give it as a torch.Tensor."
            )
        if tuple(matrix.shape) != (size, size):
            raise EngineError(
                f"statistics[{layer}] has shape {tuple(matrix.shape)}, not [{size}, {size}]",
                hint="Give the C of this layer of this model.",
            )
        return matrix.detach().cpu()

    def _imported(self) -> Mapping[int, Tensor] | None:
        """EasyEdit's and memit's files; None if `stats_dir` has none of this model."""
        directory, layers = Path(self._hparams.stats_dir), list(self._hparams.layers)
        name = str(self._hparams.to_json()["model_name"])
        try:
            asked = Asked.by(self._hparams)
            files = find_statistics(directory, model_name=name, adapter=self._adapter, layers=layers, asked=asked)
        except StorageError:
            return None
        _LOG.info("second moments from %s", ", ".join(str(path) for path in files.values()))
        return read_statistics(files, self._adapter).moment

    def _collected(self) -> StatisticsKey:
        adapter, layers = self._adapter, list(self._hparams.layers)
        base = fingerprint(adapter, layers, whole=self._corpus() == "self")
        kept = self._cache.root / "texts" / base[:16]
        corpus = open_corpus(self._corpus(), adapter=adapter, cache=kept, find_dataset=find_dataset)
        tokens = TOKENS_PER_INPUT * max(adapter.dimensions(layer)[1] for layer in layers)
        key = StatisticsKey.of(
            adapter,
            base=base,
            names={layer: adapter.parameter_name(layer) for layer in layers},
            corpus=corpus.describe(),
            tokens=tokens,
        )
        if not self._cache.ready(key):
            _LOG.warning(
                "no second moments given for layers %s: collecting them once, from up to %d tokens of %s, into %s",
                layers,
                tokens,
                corpus.describe()["name"],
                self._cache.directory(key),
            )
            found = collect(
                adapter,
                corpus,
                layers,
                tokens=tokens,
                resume=self._cache.partial(key),
                progress=self._progress,
            )
            self._cache.store(key, found)
            if found.count < tokens:
                _LOG.warning("second moments of %d tokens: the text has no more of the %d wanted", found.count, tokens)
        return key

    def _corpus(self) -> str:
        named = self._hparams.mom2_dataset
        if named in NAMED or named.startswith("hub:") or Path(named).is_file():
            return named
        return DEFAULT_CORPUS


def fingerprint(adapter: ModelAdapter, layers: list[int], *, whole: bool) -> str:
    """A digest of all that keys of `layers` depend on: configuration, embeddings, and the blocks up to the last layer.
    With `whole`, of the whole model and how it ends a text: it writes the text, too.

    The edited projections themselves are left out, so that an edited model finds the moments of the model that it
    was: MEMIT's C is the original model's.
    """
    edited = {adapter.parameter_name(layer) for layer in layers}
    beyond = range(adapter.n_layers if whole else layers[-1] + 1, adapter.n_layers)
    above = tuple(f"{adapter.architecture.block.format(i)}." for i in beyond)
    tensors: dict[str, JsonValue] = {}
    for name, tensor in adapter.model.state_dict().items():
        if name not in edited and not name.startswith(above):
            raw = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
            tensors[name] = [str(tensor.dtype), list(tensor.shape), hashlib.sha256(raw.numpy()).hexdigest()]
    config = {k: v for k, v in adapter.model.config.to_dict().items() if not k.startswith("_")}
    described = json.dumps(config, sort_keys=True, default=str)
    writes = getattr(adapter.model, "generation_config", None) if whole else None
    ends = None if writes is None else json.dumps(writes.to_dict(), sort_keys=True, default=str)
    return digest("model", canonical_json({"config": described, "tensors": tensors, "ends": ends}))
