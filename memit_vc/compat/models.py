"""A model in EasyEdit's terms: loaded as its hyperparameters say, described by them, and copied without its bytes."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from memit_vc.errors import UsageError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.forward.head_check import check_head
from memit_vc.numerics.forward.tokens import check_offsets
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.architecture import named_architecture, refuse_mixtures
from memit_vc.numerics.model.devices import placed
from memit_vc.numerics.model.pretrained import load_pretrained


def check_hparams(hparams: Any) -> None:
    """UsageError for what is no MEMITHyperParams."""
    if not isinstance(hparams, MEMITHyperParams):
        raise UsageError(
            f"hparams is a {type(hparams).__name__}", hint="Use MEMITHyperParams.from_hparams(path or name)."
        )


def adapter_for(model: Any, tok: Any, hparams: MEMITHyperParams) -> ModelAdapter:
    """The model's parts, named as the hyperparameters name them.

    HparamsError for a layer or a module that the model does not have; UnsupportedModelError for experts, quantised
    weights and tokenizers without offsets.
    """
    check_hparams(hparams)
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "named_modules"):
        raise UsageError(
            f"the model is a {type(model).__name__}, not a transformers model",
            hint="Load it with AutoModelForCausalLM.",
        )
    check_offsets(tok)
    refuse_mixtures(model, config.model_type)
    n_layers = getattr(config, "num_hidden_layers", None)
    if n_layers is not None:
        hparams.validate(n_layers=n_layers, modules=dict(model.named_modules()).keys())
    adapter = ModelAdapter.of(model, tok, architecture=named_architecture(hparams, config.model_type))
    check_head(adapter)
    return adapter


def load(hparams: MEMITHyperParams) -> tuple[Any, Any]:
    """(model, tokenizer) of `hparams.model_name`: a (model, tokenizer) pair as it is, else a directory or a Hub id.

    Float32, unless the attribute `fp16` or `bf16` was set; on `hparams.resolved_device()`, or spread over all GPUs with
    `model_parallel`. UnsupportedModelError if transformers cannot load it from safetensors files.

    Padding is the tokenizer's own affair: nothing here depends on its side.
    """
    source = hparams.model_name
    if isinstance(source, tuple | list):
        if len(source) != 2:
            raise UsageError(f"model_name has {len(source)} elements", hint="Give a (model, tokenizer) pair.")
        return source[0], source[1]
    if not isinstance(source, str | os.PathLike) or not str(source):
        raise UsageError(f"model_name is {source!r}", hint="Give a directory, a Hub id, or a (model, tokenizer) pair.")
    dtype = torch.float32
    if getattr(hparams, "bf16", False):
        dtype = torch.bfloat16
    elif getattr(hparams, "fp16", False):
        dtype = torch.float16
    spread = {"device_map": "auto"} if hparams.model_parallel else {}
    model, tok = load_pretrained(source, dtype=dtype, **spread)
    if not hparams.model_parallel:
        model = placed(model, hparams.resolved_device())
    if tok.pad_token_id is None and tok.eos_token_id is not None:
        tok.pad_token_id = tok.eos_token_id
    return model.eval(), tok


def second_model(model: Any, names: Collection[str]) -> Any:
    """Another model with the same parameters and buffers (the very same tensors), but its own copy of those in `names`.

    Costs the bytes of the named parameters and nothing else; a change of either model's other weights shows in both.
    """
    # deepcopy looks here first, so what stands here is shared instead of copied
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    memo.update({id(parameter): parameter for parameter in parameters.values()})
    for name in names:
        own = parameters[name]
        memo[id(own)] = nn.Parameter(own.detach().clone(), requires_grad=own.requires_grad)
    return copy.deepcopy(model, memo)
