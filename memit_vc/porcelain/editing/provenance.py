"""What a patch was computed from: everything that `reproduce` needs, and no time."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from memit_vc import __version__
from memit_vc.hparams import MEMITHyperParams
from memit_vc.objects import JsonValue, StateId

if TYPE_CHECKING:
    from memit_vc.porcelain.editing.models import LoadedModel
    from memit_vc.porcelain.editing.statistics import Prepared

__all__ = ["computed_by", "describe"]

_PACKAGES = ("torch", "transformers", "safetensors")


def describe(
    loaded: LoadedModel,
    *,
    state: StateId,
    hparams: MEMITHyperParams,
    templates: Sequence[Sequence[str]],
    statistics: Prepared,
    steps: Sequence[int],
) -> dict[str, JsonValue]:
    """The provenance record: algorithm, hyperparameters, templates, statistics, versions, device, context state."""
    return {
        "algorithm": "MEMIT" if not hparams.history else "MEMIT with live history",
        "state": state,
        "hparams": hparams.to_json(),
        "context_templates": [list(group) for group in templates],
        "statistics": {"id": statistics.id, "ridge": {str(k): v for k, v in statistics.ridges.items()}},
        "steps": list(steps),
        **computed_by(loaded),
    }


def computed_by(loaded: LoadedModel) -> dict[str, JsonValue]:
    """What else moves the last bits of a computation: device, dtype, threads, versions."""
    import torch

    return {
        "device": str(loaded.adapter.device.type),
        "dtype": str(loaded.adapter.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": {
            "memit-vc": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
    }
