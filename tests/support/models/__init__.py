"""Tiny random models of every family with small tokenizers, written the way a user's checkpoint directory looks."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.moe import use_experts_implementation

from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.model.adapter import ModelAdapter
from tests.support.models import tokenizers
from tests.support.models.facts import FACTS, facts
from tests.support.models.families import FAMILIES, MIXTURE_FAMILIES, tie_word_embeddings
from tests.support.models.texts import SENTENCES
from tests.support.models.tokenizers import Kind, tokenizer

__all__ = [
    "FACTS",
    "FAMILIES",
    "MIXTURE_FAMILIES",
    "SENTENCES",
    "Kind",
    "facts",
    "hparams_for",
    "load",
    "tiny",
    "tokenizer",
]

_SPREADS = (
    (("wpe", "embed_positions"), 0.05),
    (("embed", "wte", "lm_head"), 0.5),
    (("mlp", "fc1", "fc2"), 0.2),
    (("q_proj", "k_proj"), 0.1),
    (("query_key_value", "qkv_proj", "c_attn"), 0.3),
    (("",), 0.5),
)
"""Standard deviations of the weights by name, first match. Attention must carry what stands at the subject to the place
where the target is predicted, and the head must tell tokens apart; with equal spreads an edit drowns.
"""


def tiny(
    model_type: str,
    directory: Path,
    *,
    dtype: str = "float32",
    tie: bool | None = None,
    tokenizer: Kind = "byte_bpe",
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write a random causal LM and its tokenizer to `directory` with `save_pretrained`, and return the directory.

    `tie` None ties the head as the family's released checkpoints do; `config` overrides values of the config, for
    instance `intermediate_size=32` for a square projection. The same arguments give the same weights.
    """
    if model_type in MIXTURE_FAMILIES and "has_gate" not in signature(use_experts_implementation).parameters:
        pytest.skip("this transformers lays experts out in another way, and memit-vc refuses them")
    words = tokenizers.tokenizer(tokenizer)
    settings = {
        **{**FAMILIES, **MIXTURE_FAMILIES}.get(model_type, {}),
        "vocab_size": len(words),
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "tie_word_embeddings": tie_word_embeddings(model_type) if tie is None else tie,
        **config,
    }
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim >= 2:
                spread = next(value for parts, value in _SPREADS if any(part in name for part in parts))
                parameter.normal_(0.0, spread, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.02, generator=generator)
    model.to(getattr(torch, dtype))
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    words.save_pretrained(directory)
    return directory


def load(directory: Path) -> ModelAdapter:
    """The model in its stored dtype, in eval mode, with its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", local_files_only=True)
    return ModelAdapter.of(model.eval(), AutoTokenizer.from_pretrained(directory, local_files_only=True))


def hparams_for(adapter: ModelAdapter, layers: Sequence[int] = (1, 2), **changes: Any) -> MEMITHyperParams:
    """Settings that edit a tiny model; the plain prompt as only template unless `context_templates` says more."""
    parts = adapter.architecture
    values: dict[str, Any] = {
        "layers": list(layers),
        "v_num_grad_steps": 20,
        "v_lr": 0.5,
        "v_loss_layer": adapter.n_layers - 1,
        "mom2_update_weight": 5.0,
        "rewrite_module_tmp": parts.rewrite,
        "layer_module_tmp": parts.block,
        "mlp_module_tmp": parts.mlp,
        "attn_module_tmp": f"{parts.block}.{parts.attention}",
        "ln_f_module": parts.norm,
        "lm_head_module": parts.head,
        "context_templates": [["{}"]],
        **changes,
    }
    return MEMITHyperParams(**values)
