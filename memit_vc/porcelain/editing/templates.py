"""The repository's context templates: given in the hyperparameters, else sampled once from the base and kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from memit_vc.hparams import MEMITHyperParams
from memit_vc.objects import JsonValue, canonical_json, digest
from memit_vc.store.files import write_atomic

if TYPE_CHECKING:
    from memit_vc.porcelain.editing.models import LoadedModel

__all__ = ["context_templates"]


def context_templates(loaded: LoadedModel, hparams: MEMITHyperParams) -> list[list[str]]:
    """EasyEdit's nested list. Sampled from the base with the hyperparameters' seed: the same for every commit."""
    if hparams.context_templates is not None:
        return hparams.context_templates
    from memit_vc.numerics.forward.templates import PREFIXES, sample_templates

    prefixes = PREFIXES[: hparams.n_templates]
    record: list[JsonValue] = [loaded.repository.base_id, hparams.seed, hparams.template_length, list(prefixes)]
    record.append(loaded.adapter.architecture.head)
    key = digest("templates", canonical_json(record))
    path = loaded.repository.root / "cache" / f"templates-{key[:16]}.json"
    try:
        found: list[list[str]] = json.loads(path.read_text())
    except (OSError, ValueError):
        found = sample_templates(loaded.adapter, seed=hparams.seed, length=hparams.template_length, prefixes=prefixes)
        write_atomic(path, canonical_json(found))
    return found
