"""Tiny checkpoints as users have them: Conv1D and Linear, one file and many, float32 and bfloat16."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from memit_vc.numerics.exact.factored import LowRank, Term
from memit_vc.numerics.exact.grid import quantum, snap
from memit_vc.objects import EditableWeight
from memit_vc.store.checkpoint import Checkpoint

SIZES = {
    "gpt2": {"n_layer": 3, "n_embd": 16, "n_head": 2, "n_positions": 32, "vocab_size": 60},
    "llama": {
        "num_hidden_layers": 3,
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 60,
        "tie_word_embeddings": False,
    },
}
EXTRA_FILES = {
    "chat_template.jinja": "{{ messages }}",
    "tokenizer.model": "spm",
    "additional_chat_templates/rag.jinja": "{{ documents }}",
    "modeling_custom.py": "",
}
LEFT_BEHIND = ("training_args.bin", "optimizer.pt", "trainer_state.json", ".gitattributes", "model.gguf")


def save(directory: Path, model_type: str, *, dtype: str = "float32", shard_size: str = "5GB") -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES[model_type]))
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=shard_size)
    for name, text in EXTRA_FILES.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    for name in LEFT_BEHIND:
        (directory / name).write_text("x")
    return directory


def hash_directory(directory: Path) -> dict[str, str]:
    """Tensor -> SHA-256 of any checkpoint, however it is sharded."""
    return {record.name: record.sha256 for record in Checkpoint.find(directory).manifest().tensors}


def weights_of(checkpoint: Checkpoint, layers: tuple[int, ...] = (0, 1)) -> list[EditableWeight]:
    """The MLP output projections, as `init` records them."""
    found = []
    for layer in layers:
        conv, linear = f"transformer.h.{layer}.mlp.c_proj.weight", f"model.layers.{layer}.mlp.down_proj.weight"
        name = conv if conv in checkpoint.tensors else linear
        file, entry = checkpoint.tensors[name]
        d_out, d_in = entry.shape[::-1] if name == conv else entry.shape
        found.append(
            EditableWeight(
                name=name,
                parameter=name,
                layer=layer,
                orientation="in_out" if name == conv else "out_in",
                d_out=d_out,
                d_in=d_in,
                dtype=entry.dtype,
                quantum=quantum(float(tensor(checkpoint.directory / file, name).abs().max())),
            )
        )
    return found


def tensor(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def terms_for(weight: EditableWeight, seed: int, n: int = 2) -> list[Term]:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(weight.d_out, n, generator=generator, dtype=torch.float64)
    right = torch.randn(n, weight.d_in, generator=generator, dtype=torch.float64) * 0.01
    return [LowRank(*snap(left.numpy(), right.numpy(), weight.quantum))]
