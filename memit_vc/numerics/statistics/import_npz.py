"""Statistics that EasyEdit, memit and their relatives have cached on disk.

Second moments lie in {stats_dir}/{model}/{data set}_stats/{module}_{precision}_mom2{_samples}.npz, where {model} is
spelt in three ways: "EleutherAI_gpt-j-6B" (memit), "gpt-j-6B" (EasyEdit, AlphaEdit), "._hugging_cache_gpt-j-6B" (early
EasyEdit).
"""

from __future__ import annotations

import logging
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memit_vc.errors import EngineError, IntegrityError, StorageError, UsageError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.statistics.moments import Moments
from memit_vc.objects.ids import JsonValue
from memit_vc.store.files import file_digest, storage_errors

_LOG = logging.getLogger(__name__)

_NUMBER = 8
"""Bytes."""
_MOST_TOKENS = 1 << 53
DAMAGED_NPZ = (
    ValueError,
    AttributeError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)
"""What numpy raises for one that is not whole, by the place of the damage."""

_AGAIN = "Copy the damaged file again, or compute second moments here with `memitvc stats`."


@dataclass(frozen=True)
class Asked:
    """What hyperparameters ask for: EasyEdit opens {dataset}_stats/{module}_{dtype}_mom2_{samples}.npz and no other."""

    dataset: str
    dtype: str
    samples: int

    @classmethod
    def by(cls, hparams: MEMITHyperParams) -> Asked:
        return cls(hparams.mom2_dataset, hparams.mom2_dtype, hparams.mom2_n_samples)

    def fits(self, path: Path, module: str) -> bool:
        names = (f"{self.dataset}_stats", f"{module}_{self.dtype}_mom2_{self.samples}.npz")
        return (path.resolve().parent.name, path.name) == names

    def __str__(self) -> str:
        return f"{self.dataset}, {self.samples} samples, {self.dtype}"


def read_statistics(files: Mapping[int, Path], adapter: ModelAdapter) -> Moments:
    """Second moments C = mom2 / count of the files that `find_statistics` found.

    StorageError for what is unreadable, EngineError for a size that does not fit the model (naming file and layer).
    """
    moment, counts = {}, []
    for layer, path in files.items():
        moment[layer], count = _read_moment(path, layer, adapter)
        counts.append(count)
    return Moments(moment, min(counts), min(counts))


def imported_corpus(files: Mapping[int, Path]) -> dict[str, JsonValue]:
    """What stands in a statistics key for the corpus of imported moments: the files, by content. StorageError."""
    hashes: dict[str, JsonValue] = {}
    for layer, path in files.items():
        with storage_errors(path):
            hashes[str(layer)] = file_digest(path)
    name = next(iter(files.values())).parent.name if files else ""
    return {"kind": "imported", "name": name, "files": hashes, "field": None}


def find_statistics(
    source: Path,
    *,
    model_name: str,
    adapter: ModelAdapter,
    layers: Sequence[int] | None = None,
    asked: Asked | None = None,
) -> dict[int, Path]:
    """The file of each layer; `layers` None takes every layer that is found. `source` may be the stats_dir, a model's
    or a data set's directory in it, or a file. `model_name` is the model's Hub id or path, as in EasyEdit's files.

    Of several, the one that is `asked` for by its name. Another one is taken where it is the only one, and a warning is
    logged.
    """
    if not source.exists():
        raise StorageError(f"{source}: there are no statistics", hint="Give the directory that holds the .npz files.")
    wanted = range(adapter.n_layers) if layers is None else layers
    if source.is_file():
        candidates = [source]
    else:
        places = _model_directories(source, model_name)
        candidates = sorted(path for place in places for path in place.rglob("*.npz"))
    found: dict[int, Path] = {}
    for layer in wanted:
        module = adapter.architecture.rewrite.format(layer)
        named = [path for path in candidates if path.name.startswith(f"{module}_") and "mom2" in path.name]
        exact = [path for path in named if asked is not None and asked.fits(path, module)]
        if asked is not None and len(named) == 1 and not exact:
            _LOG.warning(
                "layer %d: using %s, the only statistics there; the hyperparameters ask for %s", layer, named[0], asked
            )
        named = exact or named
        if len(named) > 1:
            listed = ", ".join(str(path.relative_to(source)) for path in named)
            raise UsageError(
                f"{source}: several statistics of layer {layer} ({module}): {listed}",
                hint="Set mom2_dataset, mom2_n_samples and mom2_dtype to one of them, name the data set's directory, "
                "or move the others away.",
            )
        if named:
            found[layer] = named[0]
    missing = [] if layers is None else [layer for layer in layers if layer not in found]
    if missing or not found:
        what = f"layers {', '.join(map(str, missing))}" if missing else "any layer"
        module = adapter.architecture.rewrite.format(missing[0] if missing else 0)
        raise StorageError(
            f"{source}: no second moment of {what} of {model_name}",
            hint=f"The file's name must begin with {module}_ and the model's directory be one of "
            f"{', '.join(sorted(_spellings(model_name)))}.",
        )
    return found


def _spellings(model_name: str) -> set[str]:
    last = model_name.rstrip("/").rpartition("/")[2]
    return {model_name.replace("/", "_"), last, f"._hugging_cache_{last}", f"._hugging_cache_{last}".lower()}


def _model_directories(source: Path, model_name: str) -> list[Path]:
    """Directories below `source` that are this model's; `source` itself if it is one, or holds the files itself."""
    spelt = {name.lower() for name in _spellings(model_name)}
    if source.name.lower() in spelt or source.parent.name.lower() in spelt or any(source.glob("*.npz")):
        return [source]
    return sorted(path for path in source.iterdir() if path.is_dir() and path.name.lower() in spelt)


def _read_moment(path: Path, layer: int, adapter: ModelAdapter) -> tuple[Tensor, int]:
    size = adapter.dimensions(layer)[1]

    def fits(shapes: Mapping[str, tuple[int, ...]]) -> None:
        if shapes["mom2.mom2"] != (size, size):
            raise EngineError(
                f"{path}: its second moment is {' × '.join(map(str, shapes['mom2.mom2']))}, "
                f"layer {layer} of this model has keys of size {size}",
                hint="Give the file of this model.",
            )
        if math.prod(shapes["mom2.count"]) != 1:
            raise IntegrityError(f"{path}: mom2.count is not a number of tokens", hint=_AGAIN)

    arrays = _read(path, ("mom2.mom2", "mom2.count"), fits)
    total, count = arrays["mom2.mom2"], arrays["mom2.count"]
    if count.size != 1 or not 1 <= count.reshape(()) <= _MOST_TOKENS:  # NaN is not either
        raise IntegrityError(f"{path}: mom2.count is {count!r}, not a number of tokens", hint=_AGAIN)
    matrix = torch.from_numpy(np.ascontiguousarray(total, dtype=np.float32)) / int(count.reshape(()))
    if not bool(matrix.isfinite().all()):
        raise EngineError(f"{path}: its second moment (layer {layer}) holds values that are not finite", hint=_AGAIN)
    if bool((matrix.diagonal() < 0).any()) or not torch.allclose(
        matrix, matrix.T, rtol=1e-3, atol=1e-6 * float(matrix.diagonal().max())
    ):
        raise IntegrityError(
            f"{path}: mom2.mom2 (layer {layer}) is not a second moment: it must be symmetric, without negative entries "
            "on its diagonal",
            hint=_AGAIN,
        )
    return matrix, int(count.reshape(()))


def _read(path: Path, keys: Sequence[str], check: Callable[[Mapping[str, tuple[int, ...]]], None]) -> dict[str, Any]:
    """Arrays of an archive; `check` sees their shapes before any is unpacked, and may raise."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive]
            if missing:
                raise IntegrityError(
                    f"{path}: has no {', '.join(missing)}; it has {', '.join(archive.files)}",
                    hint="Give a file that EasyEdit or memit wrote, of this kind.",
                )
            check({key: _shape(archive.zip, key) for key in keys})
            return {key: archive[key] for key in keys}
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read: {error.strerror or error}", hint="Check its permissions."
        ) from error
    except DAMAGED_NPZ as error:
        raise IntegrityError(f"{path}: not a whole .npz file: {error}", hint="Copy it again.") from error


def _shape(archive: zipfile.ZipFile, key: str) -> tuple[int, ...]:
    """Of the array that numpy reads under this key. ValueError for one that does not hold numbers."""
    with archive.open(key if key in archive.namelist() else f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    if dtype.kind not in "fiu" or dtype.itemsize > _NUMBER:
        raise ValueError(f"{key} is of type {dtype}, not of numbers")
    return tuple(shape)
