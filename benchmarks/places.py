"""What the benchmarks share: the options of a run, and a repository on the model in a temporary directory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memit_vc.cli.demo_model import demo_model
from memit_vc.config import user_cache
from memit_vc.hparams import MEMITHyperParams
from memit_vc.porcelain.editing.models import LoadedModel, load_model
from memit_vc.porcelain.setup import init
from memit_vc.repository import Repository

__all__ = ["Options", "Place", "place"]


@dataclass(frozen=True)
class Options:
    """One run. `model` None: the demo's. `facts`, `tokens`, None: the benchmark's own number."""

    model: Path | None = None
    facts: int | None = None
    edits: Path | None = None
    corpus: str = "pydoc"
    tokens: int | None = None
    quick: bool = False
    device: str = "cpu"
    only: str | None = None
    """Of the settings that a benchmark compares, those whose names begin so."""
    results: Path | None = None
    """Where a long benchmark writes what it has so far."""

    def count(self, full: int) -> int:
        """Facts to measure with, where `full` are meant."""
        return self.facts or (min(full, 3) if self.quick else full)

    def directory(self) -> Path:
        return self.model if self.model is not None else demo_model(user_cache())[0]


@dataclass(frozen=True)
class Place:
    """`work` holds the repository, whose base is `loaded`."""

    work: Path
    repository: Repository
    loaded: LoadedModel
    hparams: MEMITHyperParams


@contextmanager
def place(options: Options) -> Iterator[Place]:
    """A fresh repository with the hyperparameters that `init` chooses for the model; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="memitvc-benchmark-") as name:
        work = Path(name)
        init(str(options.directory()), directory=work, corpus=options.corpus)
        with Repository.open(work) as repository:
            hparams = repository.hparams().replace(device=options.device)
            if options.quick:
                hparams = hparams.replace(v_num_grad_steps=3)
            loaded = load_model(repository, device=hparams.resolved_device())
            yield Place(work, repository, loaded, hparams)
