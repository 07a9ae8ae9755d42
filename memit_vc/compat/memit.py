"""`execute_memit` and `apply_memit_to_model`, with EasyEdit's signatures.

MEMIT as published (Meng et al. 2023, arXiv:2210.07229): no earlier edits take part. Nothing is global: templates are
sampled with the hyperparameters' seed for each call, and statistics belong to the model that is asked about.
"""

from __future__ import annotations

import copy as copying
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from memit_vc.compat.factors import FactorSource
from memit_vc.compat.models import adapter_for, second_model
from memit_vc.compat.records import facts_of, listed_requests
from memit_vc.compat.targets import TargetCache
from memit_vc.errors import UsageError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import Edit, compute_edit
from memit_vc.numerics.forward.templates import PREFIXES, parse_templates, sample_templates
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.devices import float64_device
from memit_vc.numerics.model.modes import outside_inference_mode
from memit_vc.progress import Progress, silent

_LOG = logging.getLogger(__name__)

Deltas = dict[str, "tuple[Tensor, Tensor]"]
"""Weight name to (adj_k [d_in, n], resid [d_out, n]), float64 on the CPU; Δ = resid @ adj_k.T where y = W x."""


@outside_inference_mode
def execute_memit(
    model: Any,
    tok: Any,
    requests: Sequence[Mapping[str, Any]],
    hparams: MEMITHyperParams,
    cache_template: str | None = None,
    *,
    context_templates: Sequence[Sequence[str]] | None = None,
    statistics: Mapping[int, Tensor] | None = None,
    progress: Progress = silent,
) -> dict[str, tuple[Tensor, Tensor]]:
    """The update of one batch, by weight name: adj_k [d_in, n] and resid [d_out, n], float64 on the CPU.

    The model is given back bit-identical, also on error. `context_templates` is EasyEdit's nested list (None: those of
    the hyperparameters, else sampled with their seed); `statistics` maps a layer to C = E[k kᵀ] [d_in, d_in] (None:
    `stats_dir`, else the cache, else collected). `cache_template` names z files as memit does, read and written.
    EditFileError for a request that is not a fact, HparamsError, UnsupportedModelError, EngineError.
    """
    adapter = adapter_for(model, tok, hparams)
    asked = listed_requests(requests)
    facts = facts_of(asked)
    if cache_template is not None and hparams.search_for != "z":
        raise UsageError(
            f"cache_template names files of z, but {hparams.source} has search_for: {hparams.search_for}",
            hint="Leave out cache_template, or set search_for: z.",
        )
    cache = None if cache_template is None else TargetCache(cache_template, asked, hparams, adapter.hidden_size)
    edit = compute_edit(
        adapter,
        facts,
        hparams=hparams,
        templates=parse_templates(templates_for(adapter, hparams, context_templates)),
        factor=FactorSource(adapter, hparams, statistics, progress=progress),
        known=None if cache is None else cache.known(),
        on_found=None if cache is None else cache.keep,
        progress=progress,
    )
    return deltas_of(adapter, edit)


@outside_inference_mode
def apply_memit_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Mapping[str, Any]],
    hparams: MEMITHyperParams,
    copy: bool = False,
    return_orig_weights: bool = False,
    cache_template: str | None = None,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, dict[str, Tensor]]:
    """(edited model, original weights by name): what `execute_memit` finds, added to the weights.

    In place, unless `copy` (a full copy is edited) or `keep_original_weight` (a second model is, which shares every
    untouched parameter with the given one; that one stays bit-identical). The original weights are filled in only with
    `return_orig_weights`. Of `kwargs`, context_templates, statistics and progress go to `execute_memit`; others are
    EasyEdit's for other algorithms and do nothing.
    """
    passed = {name: kwargs.pop(name) for name in ("context_templates", "statistics", "progress") if name in kwargs}
    if unused := sorted(set(kwargs) - {"train_ds"}):
        _LOG.warning("apply_memit_to_model: %s: not an argument of MEMIT, ignored", ", ".join(unused))
    deltas = execute_memit(model, tok, requests, hparams, cache_template, **passed)
    if copy:
        model = copying.deepcopy(model)
    elif keep_original_weight:
        model = second_model(model, deltas.keys())
    original: dict[str, Tensor] = {}
    if return_orig_weights:
        parameters = dict(model.named_parameters())
        original = {name: parameters[name].detach().clone() for name in deltas}
    add_deltas(model, deltas)
    return model, original


def add_deltas(model: Any, deltas: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """W += (adj_k @ resid.T) in each module's own orientation; orientation by the module's class, never by shapes.

    The product and the sum are float64, rounded once to the weight's dtype: what torch's in-place sum of a float32
    weight and a float64 product does.
    """
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        updates = {}
        for name, (adjusted, residual) in deltas.items():
            stored_in_out = isinstance(model.get_submodule(name.rpartition(".")[0]), Conv1D)
            update = adjusted @ residual.T
            updates[name] = update if stored_in_out else update.T
            if updates[name].shape != parameters[name].shape:
                raise UsageError(f"{name} is {tuple(parameters[name].shape)}, its update {tuple(updates[name].shape)}")
        for name, update in updates.items():
            near = float64_device(parameters[name].device)
            parameters[name].copy_(parameters[name].to(near).double() + update.to(near))


def deltas_of(adapter: ModelAdapter, edit: Edit) -> Deltas:
    """An edit's updates by the weight's name in the model, in the order of the layers."""
    return {
        adapter.parameter_name(layer): (update.adjusted.cpu(), update.residual.cpu())
        for layer, update in edit.updates.items()
    }


def templates_for(
    adapter: ModelAdapter, hparams: MEMITHyperParams, given: Sequence[Sequence[str]] | None = None
) -> list[list[str]]:
    """The given templates, else the hyperparameters', else sampled from this model with the hyperparameters' seed."""
    chosen = hparams.context_templates if given is None else given
    if chosen is not None:
        groups = [_group(group) for group in (chosen if isinstance(chosen, Iterable) else [chosen])]
        if any(not isinstance(text, str) for group in groups for text in group):
            raise UsageError(
                "context_templates is not a nested list", hint='Give lists of lists: [["{}"], ["The … . {}"]].'
            )
        return groups
    return sample_templates(
        adapter, seed=hparams.seed, length=hparams.template_length, prefixes=PREFIXES[: hparams.n_templates]
    )


def _group(group: Any) -> list[Any]:
    """The texts of a group of templates; of what is no list of texts, something that is no text."""
    return list(group) if isinstance(group, Iterable) and not isinstance(group, str) else [None]
