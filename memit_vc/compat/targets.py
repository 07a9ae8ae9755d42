"""memit's z cache: one .npz per request and layer, key `v_star` [d_model], under a name with the request's case id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memit_vc.errors import EngineError, StorageError, UsageError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import FoundTarget
from memit_vc.numerics.statistics.import_npz import DAMAGED_NPZ
from memit_vc.store.files import replacing


class TargetCache:
    """A batch's files; `template` is filled in with (last edited layer, clamp_norm_factor, case id), as in memit."""

    def __init__(
        self, template: str, requests: Sequence[Mapping[str, Any]], hparams: MEMITHyperParams, hidden_size: int
    ) -> None:
        self._size = hidden_size
        self._paths: list[Path] = []
        for number, request in enumerate(requests, 1):
            if "case_id" not in request:
                raise UsageError(
                    f"request {number} has no case_id, which cache_template needs", hint="Number the requests."
                )
            try:
                name = str(template).format(hparams.layers[-1], hparams.clamp_norm_factor, request["case_id"])
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                raise UsageError(
                    f"cache_template {template!r} cannot be filled in: {error}",
                    hint='It takes three "{}": layer, clamp_norm_factor and case id.',
                ) from error
            if "\0" in name:
                raise UsageError(f"cache_template {template!r} holds a NUL", hint="Give the names of files.")
            self._paths.append(Path(name))
        if len(set(self._paths)) < len(self._paths):
            raise UsageError(
                f"cache_template {template!r} gives two requests the same file, so they would get the same z",
                hint='It takes three "{}": layer, clamp_norm_factor and case id. Give each request its own case_id.',
            )

    def known(self) -> dict[int, FoundTarget]:
        """What is on disk, by position in the batch. EngineError for a file of another model; StorageError."""
        found = {}
        for index, path in enumerate(self._paths):
            if not path.is_file():
                continue
            try:
                with np.load(path, allow_pickle=False) as file:
                    z = torch.from_numpy(file["v_star"]).float()
            except (OSError, KeyError, TypeError, *DAMAGED_NPZ) as error:
                raise StorageError(f"{path}: not a z file: {error}", hint="Delete it; it is computed again.") from error
            if z.shape != (self._size,) or not bool(z.isfinite().all()):
                raise EngineError(
                    f"{path}: v_star has shape {tuple(z.shape)}, this model needs {self._size} finite values",
                    hint="Name another cache_template: the file belongs to another model.",
                )
            found[index] = FoundTarget(z, 0, float("nan"))
        return found

    def keep(self, found: Mapping[int, FoundTarget]) -> None:
        """Write what was found, by position in the batch; a reader never sees half a file. StorageError."""
        for index, target in found.items():
            with replacing(self._paths[index]) as temporary, temporary.open("wb") as file:
                np.savez(file, v_star=target.z.numpy())
