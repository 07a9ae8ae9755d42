"""The hyperparameter files that come with memit-vc, found by a model's name and size."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

from memit_vc.config import data_directory
from memit_vc.errors import HparamsError

# Shipped files, and the one size of model that each was written for: model type, blocks, hidden size.
_SHIPPED: Mapping[str, tuple[str, int, int]] = {
    "gemma-2-2b": ("gemma2", 26, 2304),
    "gemma-3-1b": ("gemma3_text", 26, 1152),
    "gpt-j-6b": ("gptj", 28, 4096),
    "gpt2": ("gpt2", 12, 768),
    "gpt2-xl": ("gpt2", 48, 1600),
    "llama-2-7b": ("llama", 32, 4096),
    "llama-3-8b": ("llama", 32, 4096),
    "llama-3.1-8b": ("llama", 32, 4096),
    "llama-3.2-1b": ("llama", 16, 2048),
    "llama-3.2-3b": ("llama", 28, 3072),
    "mistral-7b": ("mistral", 32, 4096),
    "olmo-2-7b": ("olmo2", 32, 4096),
    "phi-3-mini": ("phi3", 32, 3072),
    "qwen2.5-0.5b": ("qwen2", 24, 896),
    "qwen2.5-7b": ("qwen2", 28, 3584),
    "qwen3-0.6b": ("qwen3", 28, 1024),
    "qwen3-8b": ("qwen3", 36, 4096),
    "smollm2-1.7b": ("llama", 24, 2048),
    "smollm2-135m": ("llama", 30, 576),
    "smollm2-360m": ("llama", 32, 960),
}

_VARIANT = re.compile(r"instruct|it|chat|hf|base|pt|meta|sft|v\d[\d.]*|\d+k|\d{4}")
"""Parts of a name that tell variants of one architecture apart: tuning, version, context length, date."""


def shipped() -> list[str]:
    """Names of the shipped files, without ".yaml"."""
    return sorted(path.stem for path in data_directory("hparams").glob("*.yaml"))


def shipped_path(name: str) -> Path | None:
    """The shipped file that a model's name means, or None. A path to a YAML file is never taken for a name."""
    if name.endswith((".yaml", ".yml")) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        return None
    wanted = _essence(name)
    found = next((stem for stem in shipped() if _essence(stem) == wanted), None)
    return data_directory("hparams") / f"{found}.yaml" if found else None


def for_model(source: str, model_type: str, n_layers: int, hidden_size: int) -> Path | None:
    """The shipped file for a base, by the name in `source` (Hub id, directory, Hub cache) and by its size; by its size
    alone if the name says nothing and only one file is for that size; or None.
    """
    for part in reversed(re.split(r"[/\\]", source)):
        path = shipped_path(part.rpartition("--")[2])
        if path is not None:
            return path if _SHIPPED.get(path.stem) == (model_type, n_layers, hidden_size) else None
    sized = [stem for stem, size in _SHIPPED.items() if size == (model_type, n_layers, hidden_size)]
    return data_directory("hparams") / f"{sized[0]}.yaml" if len(sized) == 1 else None


def no_such_file(name: str) -> HparamsError:
    """Neither a file nor a shipped name: say which names come near."""
    names = shipped()
    essences = {_essence(stem): stem for stem in names}
    near = [
        essences[e] for e in difflib.get_close_matches(_essence(name.removesuffix(".yaml")), essences, n=3, cutoff=0.5)
    ]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Choose from {', '.join(names)}."
    return HparamsError(f"{name}: no such file, and no shipped hyperparameters of that name", hint=hint)


def _essence(name: str) -> str:
    """What names architecture and size: "meta-llama/Llama-3.2-1B-Instruct" → "llama 3.2 1 b"."""
    parts = re.split(r"[-_\s]+", name.rpartition("/")[2].lower())
    kept = [part for part in parts if not _VARIANT.fullmatch(part)]
    return " ".join(piece for part in kept for piece in re.findall(r"[a-z]+|\d+(?:\.\d+)?", part))
