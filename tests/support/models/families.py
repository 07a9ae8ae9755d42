"""The config of a tiny model of each family: 6 blocks, hidden size 32, 4 heads, 256 positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["FAMILIES", "MIXTURE_FAMILIES", "tie_word_embeddings"]

_GPT: dict[str, Any] = {"n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 256}
_PLAIN: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 160,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
_GROUPED: dict[str, Any] = {**_PLAIN, "num_key_value_heads": 2}

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "gpt2": _GPT,
    "gptj": {**_GPT, "rotary_dim": 4},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 6,
        "num_heads": 4,
        "max_position_embeddings": 256,
        "attention_types": [[["global", "local"], 3]],
        "window_size": 128,
    },
    "gpt_neox": {**_PLAIN, "rotary_pct": 0.5},
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 160,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": 32,
    },
    "bloom": {"hidden_size": 32, "n_layer": 6, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "alibi": False},
    "llama": {**_GROUPED, "head_dim": 8},
    "mistral": {**_GROUPED, "head_dim": 8, "sliding_window": 128},
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gemma": {**_GROUPED, "head_dim": 8},
    "gemma2": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 128},
    "gemma3_text": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 128},
    "phi": {**_PLAIN, "partial_rotary_factor": 0.5},
    "phi3": {**_GROUPED, "sliding_window": 128, "original_max_position_embeddings": 256},
    "olmo2": _GROUPED,
    "starcoder2": {**_GROUPED, "sliding_window": 128},
    "stablelm": {**_GROUPED, "partial_rotary_factor": 0.5},
    "smollm3": _GROUPED,
}

_MIXED: dict[str, Any] = {**_GROUPED, "num_hidden_layers": 4, "intermediate_size": 24, "num_experts_per_tok": 2}
_LATENT: dict[str, Any] = {
    **_MIXED,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}

MIXTURE_FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "mixtral": {**_MIXED, "num_local_experts": 4, "head_dim": 8, "sliding_window": None},
    "qwen3_moe": {**_MIXED, "num_experts": 4, "moe_intermediate_size": 24, "head_dim": 8, "norm_topk_prob": True},
    "qwen2_moe": {**_MIXED, "num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 16},
    "olmoe": {**_MIXED, "num_experts": 4},
    "granitemoe": {**_MIXED, "num_local_experts": 4},
    "deepseek_v2": {**_LATENT, "q_lora_rank": None, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.5},
    "deepseek_v3": {**_LATENT, "q_lora_rank": 8, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.5},
    "gpt_oss": {**_MIXED, "num_local_experts": 4, "head_dim": 8, "sliding_window": 128},
}
"""Of 4 blocks, 4 experts, 2 of them at work for each token."""


def tie_word_embeddings(model_type: str) -> bool:
    """What the family's released checkpoints do; the classes' own defaults are not a guide."""
    return model_type in {"gpt2", "gpt_neo", "opt", "bloom", "falcon", "gemma", "gemma2", "gemma3_text", "smollm3"}
