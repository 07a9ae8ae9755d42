"""A repository's base as a loaded model, and the weights of its states.

The loaded model always holds the base's weights; a state is swapped in for the length of a block. That way one loaded
model serves every state, and no state can leak into another.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from memit_vc.errors import DOCS, EngineError, HparamsError, IntegrityError, UnsupportedModelError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import Context
from memit_vc.numerics.exact.factored import Term
from memit_vc.numerics.exact.materialise import STORAGE_DTYPES, delta
from memit_vc.numerics.exact.materialise_near import materialise_near
from memit_vc.numerics.forward.head_check import check_head
from memit_vc.numerics.helper import opening
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.architecture import architecture_for
from memit_vc.numerics.model.checkpoint_tensors import tensor_digest
from memit_vc.numerics.model.devices import placed
from memit_vc.numerics.model.distributed import present_team
from memit_vc.numerics.model.masters import set_aside, swapped
from memit_vc.numerics.model.memory import memory_errors
from memit_vc.numerics.model.pretrained import loading_errors
from memit_vc.objects import EditableWeight
from memit_vc.porcelain.base import checked_base
from memit_vc.porcelain.editing.constraints import live_constraints
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.store.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


def open_adapter(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    device: str,
    spread: bool = True,
    hparams: MEMITHyperParams | None = None,
) -> ModelAdapter:
    """Load a checkpoint in its storage dtype (F32, BF16 or F16), never from the network, never with remote code.

    `hparams` name its parts. With `spread`, a model too large for the free memory of one GPU is spread over all.
    UnsupportedModelError if transformers cannot load it.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    over_all = spread and _needs_several(checkpoint, device)
    placement = {"device_map": "auto"} if over_all else {}
    with loading(checkpoint) as load:
        with memory_errors():
            model = load(dtype=STORAGE_DTYPES[dtype], **placement)
            if device != "cpu" and not over_all:
                model = placed(model, device)
        with loading_errors(
            f"{checkpoint.directory}: transformers cannot read the tokenizer",
            hint="Put its files back as they were at `memitvc init`.",
        ):
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint.directory, local_files_only=True, trust_remote_code=False
            )
    parts = architecture_for(model, model.config.model_type, hparams)
    adapter = ModelAdapter.of(model, tokenizer, architecture=parts)
    with memory_errors():
        check_head(adapter)
    return adapter


@contextmanager
def loading(checkpoint: Checkpoint) -> Iterator[Callable[..., Any]]:
    """`AutoModelForCausalLM.from_pretrained` of a local directory; UnsupportedModelError if the block fails."""
    from transformers import AutoModelForCausalLM

    try:
        yield partial(
            AutoModelForCausalLM.from_pretrained, checkpoint.directory, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, OSError, ImportError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UnsupportedModelError(
            f"{checkpoint.directory}: transformers cannot load this model: {first}",
            hint="Use a causal language model of the installed transformers that needs no remote code.",
        ) from error


def _needs_several(checkpoint: Checkpoint, device: str) -> bool:
    """There are several GPUs, and the weights and a tenth more do not fit into the free memory of this one."""
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
    """The editable weight of each layer that has one."""
    experts: Mapping[int, tuple[EditableWeight, ...]] = field(default_factory=dict)
    """Of each layer with experts, one editable weight per expert."""
    _proved: set[str] = field(default_factory=set)
    """Weights that were seen to have the base's bytes in memory."""
    _aside: dict[str, Tensor] = field(default_factory=dict)
    """The base's own, by parameter, of those that hold an adapter's for now."""

    def named_by(self, hparams: MEMITHyperParams) -> LoadedModel:
        """The same model with the parts that `hparams` name. HparamsError if they edit another projection."""
        hparams.validate(n_layers=self.adapter.n_layers, modules=self.adapter.modules.keys())
        _check_names(hparams, self.weights, self.experts)
        model = self.adapter.model
        parts = architecture_for(model, model.config.model_type, hparams)
        if parts == self.adapter.architecture:
            return self
        adapter = replace(self.adapter, architecture=parts)
        check_head(adapter)
        return replace(self, adapter=adapter)

    @property
    def layers(self) -> set[int]:
        """Those that can be edited."""
        return {*self.weights, *self.experts}

    def parts(self, layer: int) -> tuple[EditableWeight, ...]:
        """The editable weights of a layer: one, or one for each expert."""
        return self.experts.get(layer) or (self.weights[layer],)

    def keyed_name(self, layer: int) -> str:
        """What the layer's statistics are filed under."""
        return self.adapter.parameter_name(layer) if layer in self.experts else self.weights[layer].name

    def split(self, layer: int, stacked: Tensor) -> list[tuple[EditableWeight, Tensor]]:
        """The rows of each of a layer's weights, of a matrix whose rows are the layer's inputs. Experts whose rows are
        all zero are left out.
        """
        import torch

        weights = self.parts(layer)
        parts = torch.split(stacked, [weight.d_in for weight in weights])
        return [
            (weight, part) for weight, part in zip(weights, parts, strict=True) if len(weights) == 1 or bool(part.any())
        ]

    def touched(self, state: LiveState) -> list[int]:
        """Layers whose weights differ from the base's in a state."""
        return [layer for layer in sorted(self.layers) if any(part.name in state.bounds for part in self.parts(layer))]

    def materialised(self, state: LiveState) -> dict[int, Tensor]:
        """The weights of a state: storage dtype, as the model holds them, without the layers that it does not touch."""
        return {layer: self.with_terms(layer, state.terms) for layer in self.touched(state)}

    def with_terms(self, layer: int, terms: Callable[[EditableWeight], Sequence[Term]]) -> Tensor:
        """The weight of a layer with these updates, or all its experts': storage dtype, as the model holds it, on the
        CPU.
        """
        near = self.adapter.weight(layer).device
        if layer not in self.experts:
            return materialise_near(self.base_weight(layer), terms(self.weights[layer]), self.weights[layer], near)
        stack = self.adapter.parameter(layer).data.cpu().clone()
        for weight in self.experts[layer]:
            found = terms(weight)
            if found:
                stack[weight.expert] = materialise_near(self.base_of(weight), found, weight, near)
        return stack

    def base_weight(self, layer: int) -> Tensor:
        """As `base_of`, of a layer that has one weight."""
        return self.base_of(self.weights[layer])

    def base_of(self, weight: EditableWeight) -> Tensor:
        """The base's weight: storage dtype, as stored, on the CPU. BaseChangedError if its bytes here are others."""
        aside = self._aside.get(weight.parameter)
        parameter = self._parameter(weight).data if aside is None else aside
        found = (parameter if weight.expert is None else parameter[weight.expert]).cpu()
        if weight.name not in self._proved:
            self.checkpoint.check(weight.name, tensor_digest(found))
            self._proved.add(weight.name)
        return found

    def _parameter(self, weight: EditableWeight) -> Parameter:
        try:
            return self.adapter.model.get_parameter(weight.parameter)  # type: ignore[no-any-return]
        except AttributeError as error:
            raise IntegrityError(
                f"the model has no parameter {weight.parameter!r}, which a patch names for {weight.name}",
                hint="Run `memitvc fsck`: the patch belongs to another base, or is damaged.",
            ) from error

    @contextmanager
    def beneath(self, state: LiveState) -> Iterator[None]:
        """The model with the adapters of a state and none of its facts, for the length of a block: facts are solved on
        it. EngineError with several processes, of which the others would hold the base.
        """
        adapters = state.adapters
        if adapters.columns and self.adapter.team is not None:
            raise EngineError(
                "an adapter is live, and several processes work on the base alone so far",
                hint="Run the command in one process, or revert the adapter first.",
            )
        weights = {
            weight.parameter: materialise_near(
                self.base_of(weight), adapters.terms(weight), weight, self._parameter(weight).device
            )
            for weight in adapters.touched
        }
        with set_aside(self.adapter.model, weights) as aside:
            self._aside.update(aside)
            try:
                yield
            finally:
                self._aside.clear()

    @contextmanager
    def holding(self, state: LiveState) -> Iterator[ModelAdapter]:
        """The model with the weights of a state, for the length of a block."""
        with self.beneath(state), swapped(self.adapter, self.materialised(state)):
            yield self.adapter

    def context(self, state: LiveState, hparams: MEMITHyperParams) -> Context:
        """What a batch computed on this state needs: weights, D of its facts, their keys, and the facts, in an
        order that does not depend on commits. Its adapters are in the model `beneath` it.
        """
        if not state.columns:
            return Context()
        facts = state.of_facts
        missing = [layer for layer in self.touched(facts) if layer not in hparams.layers]
        if missing and hparams.history:
            raise EngineError(
                f"layers {missing} hold live edits and are not among hparams.layers {hparams.layers}",
                hint="Use the layers of the earlier commits, or set `history: false`.",
            )
        parts = {layer: self.parts(layer) for layer in hparams.layers}
        keys = live_constraints(state, self.parts, hparams.layers).keys if hparams.history else None
        live = [state.facts[fact] for fact in sorted(state.edits)] if hparams.history else []
        return Context(self.materialised(state), _Deltas(facts, parts), keys or None, live)


@dataclass(frozen=True)
class _Deltas(Mapping[int, "Tensor"]):
    """D of each layer, summed when it is asked for: in float64 each is twice the size of a float32 weight. Those of a
    layer's experts stand side by side.
    """

    state: LiveState
    parts: Mapping[int, Sequence[EditableWeight]]

    def __getitem__(self, layer: int) -> Tensor:
        import torch

        found = [delta(self.state.terms(weight), weight) for weight in self.parts[layer]]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def __iter__(self) -> Iterator[int]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def model_of(
    repository: Repository,
    loaded: LoadedModel | None,
    *,
    hparams: MEMITHyperParams | None = None,
    progress: Progress = silent,
) -> LoadedModel:
    """`loaded` if the caller has it, else the base on the device that the hyperparameters name."""
    if loaded is not None:
        return loaded
    return load_model(repository, device=(hparams or repository.hparams()).resolved_device(), progress=progress)


def load_model(repository: Repository, *, device: str = "cpu", progress: Progress = silent) -> LoadedModel:
    """Load the repository's base, after checking that it is the recorded one."""
    checkpoint = checked_base(repository, whole=True, progress=progress)
    editable = repository.fact_weights()
    weights = _Editable((weight.layer, weight) for weight in editable if weight.expert is None)
    experts: dict[int, tuple[EditableWeight, ...]] = {}
    for weight in editable:
        if weight.expert is not None:
            experts[weight.layer] = (*experts.get(weight.layer, ()), weight)
    dtype, team = editable[0].dtype, present_team()
    if team is not None:
        device = "cuda:0" if device.startswith("cuda") else device  # each process has the GPU of its local rank
        named = repository.hparams_path.read_text(encoding="utf-8")
        team.tell(opening(str(checkpoint.directory), dtype=dtype, device=device, hparams=named))
    hparams = MEMITHyperParams.from_hparams(repository.hparams_path)
    _check_names(hparams, weights, experts)
    adapter = open_adapter(checkpoint, dtype=dtype, device=device, spread=team is None, hparams=hparams)
    for weight in editable:
        d_out, *count, d_in = adapter.weight(weight.layer).shape
        found = (adapter.orientation(weight.layer), d_out, d_in)
        if weight.expert is not None and count != [len(experts[weight.layer])]:
            found = (found[0], 0, 0)
        if found != (weight.orientation, weight.d_out, weight.d_in):
            raise IntegrityError(
                f"{weight.name} is recorded as another kind of matrix than the model has",
                hint="Start the repository again: `memitvc init`, or `memitvc clone` from a remote that you trust.",
            )
    gc.collect()  # loading leaves garbage that would add to an edit's own peak of memory
    return LoadedModel(repository, checkpoint, replace(adapter, team=team), weights, experts)


class _Editable(dict[int, EditableWeight]):
    """The weight of each layer that can be edited; EngineError for another layer, which has experts or no weight."""

    def __missing__(self, layer: int) -> EditableWeight:
        raise EngineError(
            f"layer {layer} cannot be edited as one weight: it has experts, or `init` found NaN or infinity in it",
            hint=f"Leave the layer out of `layers`; with experts, use a verb that {DOCS}mixtures.md lists.",
        )


def _check_names(
    hparams: MEMITHyperParams,
    weights: Mapping[int, EditableWeight],
    experts: Mapping[int, Sequence[EditableWeight]],
) -> None:
    """HparamsError if the file names another projection than the one that `init` recorded."""
    for layer in hparams.layers:
        weight, name = weights.get(layer), hparams.rewrite_module_tmp.format(layer)
        part = "weight"
        if layer in experts:
            weight, part = experts[layer][0], "down_proj"
        if weight is not None and weight.parameter != f"{name}.{part}":
            raise HparamsError(
                f"{hparams.source}: rewrite_module_tmp names {name}, this repository edits {weight.parameter}",
                hint="Correct the file, or edit another projection in a new repository: `memitvc init --hparams FILE`.",
            )
