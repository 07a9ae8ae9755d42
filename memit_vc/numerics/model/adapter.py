"""Every question about a loaded model, answered once: blocks, projections, orientation, norm, head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from memit_vc.errors import EngineError, UnsupportedModelError
from memit_vc.numerics.model.architecture import Architecture, architecture_of
from memit_vc.numerics.model.experts import Experts

if TYPE_CHECKING:
    from memit_vc.numerics.model.distributed import Team


Orientation = Literal["out_in", "in_out"]


@dataclass(frozen=True)
class ModelAdapter:
    """A causal LM with its tokenizer, and where its parts are.

    The model is only looked at; it is put into eval mode by the context managers that run it, never here.
    """

    model: Any
    tokenizer: Any
    architecture: Architecture
    team: Team | None = None
    """The processes that hold this model and share its work; None: this one alone."""

    @classmethod
    def of(cls, model: Any, tokenizer: Any, *, architecture: Architecture | None = None) -> ModelAdapter:
        """Look the model up in the table; UnsupportedModelError for experts, quantised weights, unknown trees.

        EngineError for a model of which a part was not loaded.
        """
        _refuse_quantised(model)
        _refuse_offloaded(model)
        found = architecture or architecture_of(model, model.config.model_type)
        adapter = cls(model, tokenizer, found)
        adapter.weight(0)
        return adapter

    @cached_property
    def modules(self) -> Mapping[str, nn.Module]:
        return dict(self.model.named_modules())

    @cached_property
    def n_layers(self) -> int:
        stack, _, _ = self.architecture.block.partition(".{}")
        return len(self.module(stack))  # type: ignore[arg-type]

    def module(self, path: str) -> nn.Module:
        """The module at a dotted path; UnsupportedModelError if the model has none."""
        found = self.modules.get(path)
        if found is None:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has no module {path!r}",
                hint="Correct the module names in the hyperparameter file; --hparams takes another one.",
            )
        return found

    @cached_property
    def blocks(self) -> Sequence[nn.Module]:
        return [self.module(self.architecture.block.format(i)) for i in range(self.n_layers)]

    def path(self, layer: int) -> str:
        """Of the edited part of a layer: its projection, or the module that holds its experts. The first layers of some
        mixtures have a plain projection instead.
        """
        path, dense = self.architecture.rewrite.format(layer), self.architecture.dense
        missing = dense is not None and path not in self.modules
        return f"{self.architecture.block.format(layer)}.{dense}" if missing else path

    def experts(self, layer: int) -> Experts | None:
        """The experts of a layer; None if it has one plain projection."""
        path = self.path(layer)
        module = self.module(path)
        return Experts.of(module, path) if isinstance(getattr(module, "down_proj", None), nn.Parameter) else None

    def projection(self, layer: int) -> nn.Module:
        """The edited projection (MLP output) of a layer without experts: an nn.Linear or a Conv1D."""
        module = self.module(self.path(layer))
        if not isinstance(module, nn.Linear | Conv1D):
            raise UnsupportedModelError(
                f"{self.path(layer)} is a {type(module).__name__}, not a Linear or a Conv1D",
                hint="Load the model in float32, bfloat16 or float16: quantised and wrapped layers cannot be edited.",
            )
        return module

    def parameter(self, layer: int) -> nn.Parameter:
        """The parameter that edits change; of a layer with experts, all of them [E, …]."""
        experts = self.experts(layer)
        owner: Any = self.projection(layer) if experts is None else experts.module
        found: nn.Parameter = owner.weight if experts is None else owner.down_proj
        return found

    def bias(self, layer: int) -> nn.Parameter | None:
        """Of the edited projection, or of all experts [E, d_out]."""
        experts = self.experts(layer)
        owner: Any = self.projection(layer) if experts is None else experts.module
        found: nn.Parameter | None = owner.bias if experts is None else getattr(owner, "down_proj_bias", None)
        return found

    def parameter_name(self, layer: int) -> str:
        """The weight's name in the model's state dict."""
        return f"{self.path(layer)}.{'weight' if self.experts(layer) is None else 'down_proj'}"

    def orientation(self, layer: int) -> Orientation:
        """A fact of the module's class, never guessed from shapes: a square weight satisfies both guesses."""
        experts = self.experts(layer)
        if experts is not None:
            return experts.orientation
        return "in_out" if isinstance(self.projection(layer), Conv1D) else "out_in"

    def weight(self, layer: int) -> Tensor:
        """The parameter in y = W x orientation, [d_out, d_in], or [d_out, E, d_in] of a layer with experts: a view,
        sharing memory with the model.
        """
        experts = self.experts(layer)
        if experts is not None:
            return experts.stack
        weight: Tensor = self.projection(layer).weight.data  # type: ignore[assignment]
        return weight.T if self.orientation(layer) == "in_out" else weight

    def dimensions(self, layer: int) -> tuple[int, int]:
        """(d_out, d_in) of the projection; with experts, d_in is the size of the stacked key, E times one expert's."""
        d_out, *d_in = self.weight(layer).shape
        return int(d_out), math.prod(d_in)

    @property
    def hidden_size(self) -> int:
        return self.dimensions(0)[0]

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the input embeddings."""
        return self.model.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]

    @property
    def backbone(self) -> nn.Module:
        """The model without its head, so that a forward computes no logits."""
        return self.model.base_model  # type: ignore[no-any-return]

    def head(self, hidden: Tensor) -> Tensor:
        """Float32 logits [..., vocabulary] of block outputs [..., d_model]: norm, head, and the family's soft cap."""
        for name in (self.architecture.norm, self.architecture.after_norm):
            if name is not None and name in self.modules:
                hidden = self.modules[name](hidden)
        return self.logits(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] in float32 of final hidden states, the norm already applied."""
        logits: Tensor = self._output(hidden)
        config = self.model.config
        scale = getattr(config, "logit_scale", None)  # Cohere
        divisor = getattr(config, "logits_scaling", None)  # Granite
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        if scale:
            logits = logits * scale
        if divisor:
            logits = logits / divisor
        if cap:
            logits = torch.tanh(logits / cap) * cap
        return logits.float()

    def _output(self, hidden: Tensor) -> Tensor:
        module, own = self.modules.get(self.architecture.head), self.model.get_output_embeddings()
        if module is None or (isinstance(module, nn.Embedding) and own is not None and own.weight is not module.weight):
            module = own  # a file for the family names the embedding, and this model has a head of its own
        if isinstance(module, nn.Embedding):  # a tied head named by its embedding, as EasyEdit's files do
            # no call of the module, so nothing brings the hidden states of the last device to the first
            return nn.functional.linear(hidden.to(module.weight.device), module.weight)
        return module(hidden)  # type: ignore[no-any-return]


def _refuse_quantised(model: Any) -> None:
    config = getattr(model.config, "quantization_config", None)
    if config is None and not getattr(model, "is_quantized", False):
        return
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    hint = "Edit the unquantised checkpoint; its edits can be exported as an adapter for the quantised one."
    if "mxfp4" in str(method).lower():  # gpt_oss is published in no other form, and an adapter cannot hold its experts
        hint = (
            "Write it in bfloat16 once: AutoModelForCausalLM.from_pretrained(old, dtype='bfloat16', "
            "quantization_config=Mxfp4Config(dequantize=True)).save_pretrained(new), and the tokenizer likewise."
        )
    raise UnsupportedModelError(
        "the model's weights are quantised: an update of a few bits of each weight cannot be stored in them", hint=hint
    )


def _refuse_offloaded(model: nn.Module) -> None:
    """What accelerate leaves in main memory or on disk has no values here: it comes and goes with each forward."""
    parameters = dict(model.named_parameters())
    away = {name: parameter for name, parameter in parameters.items() if parameter.is_meta}
    skeleton = len(away) == len(parameters) and not hasattr(model, "hf_device_map")
    if not away or skeleton:  # nothing was meant to be loaded: only the names and shapes are asked about
        return
    whole, part = (
        sum(parameter.numel() * parameter.element_size() for parameter in some.values()) / 1e9
        for some in (parameters, away)
    )
    raise EngineError(
        f"{part:,.3g} of {whole:,.3g} GB of the model's weights did not fit into the memory of the GPUs and were left "
        f"outside, {next(iter(away))} first",
        hint="Use GPUs with more memory in all, set `device: cpu`, or load a smaller dtype.",
    )
