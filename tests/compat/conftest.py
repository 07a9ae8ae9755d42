"""Tiny models with everything that an edit of them needs given, so that nothing is collected or sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.utils import logging

from memit_vc.compat.models import adapter_for
from memit_vc.hparams import MEMITHyperParams
from tests.support.models import hparams_for, load, tiny
from tests.support.models.facts import facts

LAYERS = (1, 2)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "conv1d": ("gpt2", {}),
    "linear": ("llama", {}),
    "square": ("llama", {"intermediate_size": 32}),
    "square-conv1d": ("gpt2", {"n_inner": 32}),
    "parallel": ("gptj", {}),
}


@dataclass
class Case:
    """A fresh model, its hyperparameters, second moments by layer, and EasyEdit's request dicts."""

    model: Any
    tok: Any
    hparams: MEMITHyperParams
    statistics: dict[int, Tensor]
    requests: list[dict[str, Any]]

    def bytes(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def unchanged(self, before: dict[str, Tensor]) -> bool:
        return all(torch.equal(value, before[name]) for name, value in self.model.state_dict().items())


def requests(count: int = 3) -> list[dict[str, Any]]:
    return [
        {"prompt": f.prompt, "subject": f.subject, "target_new": f.target, "ground_truth": f.ground_truth}
        for f in facts(count)
    ]


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a tiny model of one of KINDS, written once."""
    root = tmp_path_factory.mktemp("models")

    def written(kind: str) -> Path:
        family, config = KINDS[kind]
        path = root / kind
        return path if path.is_dir() else tiny(family, path, **config)

    return written


@pytest.fixture
def make(directory: Callable[[str], Path]) -> Callable[..., Case]:
    """`make("conv1d", **hyperparameters)`: a fresh case."""
    logging.disable_progress_bar()

    def made(kind: str, **changes: Any) -> Case:
        loaded = load(directory(kind))
        values = hparams_for(loaded, LAYERS, **changes)
        values.model_name = (loaded.model, loaded.tokenizer)
        adapter = adapter_for(loaded.model, loaded.tokenizer, values)
        moments = {}
        for layer in LAYERS:
            size = adapter.dimensions(layer)[1]
            sample = torch.randn(3 * size, size, generator=torch.Generator().manual_seed(layer)) * 0.2
            moments[layer] = sample.T @ sample / len(sample)
        return Case(loaded.model, loaded.tokenizer, values, moments, requests())

    return made
