"""What the fixture `opened` gives, and what a test does with the model of a repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from memit_vc.repository import Repository

__all__ = ["Opened", "logits", "plain_model"]

Opened = Callable[[Path | str], Repository]
TOKENS = torch.arange(20, 180).reshape(20, 8)
"""Twenty prompts."""


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits.double()


def plain_model(directory: Path, dtype: torch.dtype | str = "auto") -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True).eval()
