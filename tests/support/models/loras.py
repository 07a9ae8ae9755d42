"""PEFT LoRA adapters with random numbers, saved by PEFT itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

__all__ = ["TARGETS", "lora"]

TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt2": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
}


def lora(base: Path, family: str, directory: Path, *, card: str = "", seed: int = 0, **settings: Any) -> dict[str, Any]:
    """Write an adapter of `base`; the weights of the model that PEFT merges it into, by parameter."""
    model = AutoModelForCausalLM.from_pretrained(base)
    wanted = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": TARGETS[family],
        "fan_in_fan_out": family == "gpt2",
        "task_type": "CAUSAL_LM",
        **settings,
    }
    wrapped: Any = get_peft_model(model, LoraConfig(**wanted))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(wrapped.named_parameters()):
            if "lora_B" in name:
                parameter.normal_(0.0, 0.05, generator=generator)
            elif "lora_A" in name:
                parameter.normal_(0.0, 0.3, generator=generator)
    wrapped.save_pretrained(str(directory))
    (directory / "README.md").write_text(card or "---\nlicense: apache-2.0\n---\n# Polite\n", encoding="utf-8")
    return {name: parameter.detach() for name, parameter in wrapped.merge_and_unload().named_parameters()}
