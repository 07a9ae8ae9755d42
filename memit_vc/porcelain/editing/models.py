"""A repository's base as a loaded model, and the weights of its states.

The loaded model always holds the base's weights; a state is swapped in for the length of a block. That way one loaded
model serves every state, and no state can leak into another.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from memit_vc.errors import EngineError, HparamsError, UnsupportedModelError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.objects import EditableWeight
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.store.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from memit_vc.numerics.edit.engine import Context
    from memit_vc.numerics.exact.factored import Term
    from memit_vc.numerics.model.adapter import ModelAdapter
    from memit_vc.repository import Repository


def open_adapter(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    device: str,
    spread: bool = True,
    hparams: MEMITHyperParams | None = None,
) -> ModelAdapter:
    """Load a checkpoint in its storage dtype (F32, BF16 or F16), never from the network, never with remote code.

    Its parts are those that `hparams` name, where they are given.

    With `spread`, a model that does not fit into the free memory of one GPU is spread over all.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from memit_vc.numerics.model.adapter import ModelAdapter
    from memit_vc.numerics.model.architecture import architecture_for
    from memit_vc.numerics.model.memory import memory_errors

    logging.disable_progress_bar()
    dtypes = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    over_all = spread and _needs_several(checkpoint, device)
    placement = {"device_map": "auto"} if over_all else {}
    try:
        with memory_errors():
            model = AutoModelForCausalLM.from_pretrained(
                checkpoint.directory, dtype=dtypes[dtype], local_files_only=True, trust_remote_code=False, **placement
            )
            if device != "cpu" and not over_all:
                model = model.to(device)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.directory, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, ImportError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UnsupportedModelError(
            f"{checkpoint.directory}: transformers cannot load this model: {first}",
            hint="memit-vc edits causal language models of the installed transformers, without remote code.",
        ) from error
    parts = architecture_for(model, model.config.model_type, hparams)
    return ModelAdapter.of(model, tokenizer, architecture=parts)


def _needs_several(checkpoint: Checkpoint, device: str) -> bool:
    """The weights, and a tenth more to work with, exceed what this GPU has free, and there are more GPUs."""
    import torch

    if not device.startswith("cuda") or torch.cuda.device_count() < 2:
        return False
    size = sum(path.stat().st_size for path in checkpoint.directory.glob("*.safetensors"))
    return size * 1.1 > torch.cuda.mem_get_info(device)[0]


@dataclass(eq=False)
class LoadedModel:
    """The base in memory, and states of the repository on it."""

    repository: Repository
    checkpoint: Checkpoint
    adapter: ModelAdapter
    weights: Mapping[int, EditableWeight]
    """The editable weight of each layer."""

    def named_by(self, hparams: MEMITHyperParams) -> LoadedModel:
        """The same model, its parts those that `hparams` name. HparamsError where these edit another projection."""
        from memit_vc.numerics.model.architecture import architecture_for

        hparams.validate(n_layers=self.n_layers, modules=self.adapter.modules.keys())
        _check_names(hparams, self.weights)
        model = self.adapter.model
        parts = architecture_for(model, model.config.model_type, hparams)
        if parts == self.adapter.architecture:
            return self
        return replace(self, adapter=replace(self.adapter, architecture=parts))

    def touched(self, state: LiveState) -> list[int]:
        """Layers whose weight differs from the base's in a state."""
        return [layer for layer, weight in self.weights.items() if weight.name in state.bounds]

    def materialised(self, state: LiveState) -> dict[int, Tensor]:
        """The weights of a state: storage dtype, as stored; layers that it does not touch are left out."""
        return {layer: self.with_terms(layer, state.terms(self.weights[layer])) for layer in self.touched(state)}

    def with_terms(self, layer: int, terms: Sequence[Term]) -> Tensor:
        """The weight of a layer with these updates: storage dtype, as stored, on the CPU."""
        from memit_vc.numerics.exact.materialise_near import materialise_near

        near = self.adapter.weight(layer).device
        return materialise_near(self.base_weight(layer), terms, self.weights[layer], near)

    def base_weight(self, layer: int) -> Tensor:
        parameter: Tensor = self.adapter.projection(layer).weight.data  # type: ignore[assignment]
        return parameter.cpu()

    @contextmanager
    def holding(self, state: LiveState) -> Iterator[ModelAdapter]:
        """The model with the weights of a state, for the length of a block."""
        from memit_vc.numerics.model.masters import swapped

        with swapped(self.adapter, self.materialised(state)):
            yield self.adapter

    @cached_property
    def n_layers(self) -> int:
        return self.adapter.n_layers

    def context(self, state: LiveState, hparams: MEMITHyperParams) -> Context:
        """What a batch computed on this state needs: weights, D, and the live facts' keys."""
        from memit_vc.numerics.edit.engine import Context
        from memit_vc.porcelain.editing.constraints import live_constraints

        if not state.columns:
            return Context()
        missing = [layer for layer in self.touched(state) if layer not in hparams.layers]
        if missing and hparams.history:
            raise EngineError(
                f"layers {missing} hold live edits and are not among hparams.layers {hparams.layers}",
                hint="Use the layers of the earlier commits, or set `history: false`.",
            )
        terms = {layer: state.terms(self.weights[layer]) for layer in hparams.layers}
        deltas = _Deltas(terms, self.weights)
        keys = None
        if hparams.history:
            keys = live_constraints(state, self.weights, hparams.layers).keys or None
        return Context(weights=self.materialised(state), delta=deltas, keys=keys)


@dataclass(frozen=True)
class _Deltas(Mapping[int, "Tensor"]):
    """D of each layer, summed when it is asked for: in float64 each is twice the size of a float32 weight."""

    terms: Mapping[int, Sequence[Term]]
    weights: Mapping[int, EditableWeight]

    def __getitem__(self, layer: int) -> Tensor:
        from memit_vc.numerics.exact.materialise import delta

        return delta(self.terms[layer], self.weights[layer])

    def __iter__(self) -> Iterator[int]:
        return iter(self.terms)

    def __len__(self) -> int:
        return len(self.terms)


def model_of(
    repository: Repository,
    loaded: LoadedModel | None,
    *,
    hparams: MEMITHyperParams | None = None,
    progress: Progress = silent,
) -> LoadedModel:
    """`loaded` where the caller has it, else the base on the device that the hyperparameters name."""
    if loaded is not None:
        return loaded
    return load_model(repository, device=(hparams or repository.hparams()).resolved_device(), progress=progress)


def load_model(repository: Repository, *, device: str = "cpu", progress: Progress = silent) -> LoadedModel:
    """Load the repository's base, after checking that it is the recorded one."""
    from memit_vc.numerics.helper import opening
    from memit_vc.numerics.model.distributed import present_team
    from memit_vc.porcelain.base import checked_base

    checkpoint = checked_base(repository, progress=progress)
    weights = _Editable((weight.layer, weight) for weight in repository.weights())
    dtypes = {weight.dtype for weight in weights.values()}
    dtype, team = dtypes.pop(), present_team()
    if team is not None:
        named = repository.hparams_path.read_text(encoding="utf-8")
        team.tell(opening(str(checkpoint.directory), dtype=dtype, device=device, hparams=named))
    hparams = MEMITHyperParams.from_hparams(repository.hparams_path)
    _check_names(hparams, weights)
    opened = open_adapter(checkpoint, dtype=dtype, device=device, spread=team is None, hparams=hparams)
    adapter = replace(opened, team=team)
    # what loading allocates and frees is worth giving back before an edit's own peak
    gc.collect()
    return LoadedModel(repository, checkpoint, adapter, weights)


class _Editable(dict[int, EditableWeight]):
    """The weight of each layer that can be edited; EngineError for another layer."""

    def __missing__(self, layer: int) -> EditableWeight:
        raise EngineError(
            f"layer {layer} cannot be edited: `init` found NaN or infinity in its weight",
            hint="Leave the layer out of `layers` in the hyperparameters.",
        )


def _check_names(hparams: MEMITHyperParams, weights: Mapping[int, EditableWeight]) -> None:
    """HparamsError where the file names another projection than the one whose tensors `init` recorded."""
    for layer in hparams.layers:
        weight, name = weights.get(layer), hparams.rewrite_module_tmp.format(layer)
        if weight is not None and weight.parameter != f"{name}.weight":
            raise HparamsError(
                f"{hparams.source}: rewrite_module_tmp names {name}, this repository edits {weight.parameter}",
                hint="What is edited is settled by `memitvc init --hparams FILE`; start a new repository for another.",
            )
