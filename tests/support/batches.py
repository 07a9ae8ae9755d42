"""Repositories on a tiny model with real commits."""

from __future__ import annotations

from pathlib import Path

from memit_vc.hparams import MEMITHyperParams
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.setup import init
from memit_vc.repository import Repository
from tests.support.models import FACTS, SENTENCES, hparams_for, load

__all__ = ["BATCHES", "committed", "start"]

BATCHES = (FACTS[0:2], FACTS[2:4], FACTS[4:6])


def start(directory: Path, base: Path, **changes: object) -> Path:
    """A repository on `base` with hyperparameters for a tiny model."""
    directory.mkdir(parents=True)
    text = directory / "corpus.txt"
    text.write_text("\n".join(SENTENCES), encoding="utf-8")
    hparams = directory / "hparams.yaml"
    values: MEMITHyperParams = hparams_for(load(base), **{"mom2_update_weight": 50.0, **changes})
    hparams.write_text(values.replace(device="cpu").to_yaml(), encoding="utf-8")
    init(str(base), directory=directory, hparams=hparams, corpus=str(text), health=str(text))
    return directory


def committed(directory: Path, base: Path, **changes: object) -> Path:
    """The same with BATCHES committed one after the other."""
    with Repository.open(start(directory, base, **changes)) as repository:
        loaded = load_model(repository)
        for number, batch in enumerate(BATCHES, start=1):
            commit_facts(repository, batch, message=f"batch {number}", scores=False, loaded=loaded)
    return directory
