"""GGUF files of tiny checkpoints: each tensor that llama.cpp has a name for, as its converter would store it."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

from memit_vc.store.checkpoint import Checkpoint

__all__ = ["ARCHITECTURE", "as_f16", "read_all", "write_base"]

ARCHITECTURE = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gpt_oss": gguf.MODEL_ARCH.GPT_OSS,
}
Kind = gguf.GGMLQuantizationType


def write_base(
    path: Path, base: Path, family: str, kind: Kind = Kind.Q4_1, *, heads: tuple[int, int] | None = None
) -> Path:
    """A base in GGUF, its matrices quantised as `kind`. Conv1D weights are turned, as the converter turns them. With
    `heads` (of q, of k) the file names them, and the rows of q and k are in the converter's order.
    """
    architecture = ARCHITECTURE[family]
    names = gguf.get_tensor_name_map(architecture, 6)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_block_count(6)
    if heads is not None:
        writer.add_head_count(heads[0])
        writer.add_head_count_kv(heads[1])
    writer.add_token_list([f"t{n}" for n in range(40)])
    writer.add_array("numbers", [1.5, 2.5])
    loaded = {name: t for file in Checkpoint.find(base).files for name, t in load_file(base / file).items()}
    for name, tensor in sorted(_joined(loaded).items()):
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        array = tensor.float().numpy()
        if found is None:
            continue
        if family == "gpt2" and array.ndim == 2 and "wte" not in name and "wpe" not in name:
            array = np.ascontiguousarray(array.T)
        if family == "gpt_oss" and array.ndim == 3:
            found, array = f"{found}.weight", np.ascontiguousarray(array.swapaxes(1, 2))
        if heads is not None and found.endswith(("attn_q.weight", "attn_k.weight")):
            count = heads[found.endswith("attn_k.weight")]
            halves = array.reshape(count, 2, len(array) // count // 2, -1)
            array = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))
        small = array.ndim >= 2 and array.shape[-1] % 32 == 0
        made = gguf.quantize(array, kind) if small else array
        writer.add_tensor(found, made, raw_dtype=kind if small else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _joined(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The experts of a layer together, as a file of llama.cpp has them."""
    found = {name: tensor for name, tensor in tensors.items() if ".experts." not in name or tensor.ndim != 2}
    for name in tensors:
        first = re.fullmatch(r"(.*\.experts)\.0\.(\w+)\.weight", name)
        if first:
            parts = [t for n, t in sorted(tensors.items()) if re.fullmatch(rf"{first[1]}\.\d+\.{first[2]}\.weight", n)]
            found[f"{first[1]}.{first[2]}.weight"] = torch.stack(parts)
    return found


def as_f16(source: Path, target: Path) -> Path:
    """The same model with its matrices in F16."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            writer.add_key_value(
                name, field.contents(), kind, sub_type=field.types[-1] if len(field.types) > 1 else None
            )
    for tensor in reader.tensors:
        array = gguf.dequantize(tensor.data, tensor.tensor_type)
        array = array.reshape(tuple(reversed(tensor.shape.tolist())))
        writer.add_tensor(tensor.name, array.astype(np.float16) if array.ndim > 1 else array.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def read_all(path: Path) -> tuple[dict[str, object], dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """Values, and (type, shape, bytes) of each tensor, by the gguf package's own reader."""
    reader = gguf.GGUFReader(path)
    values = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {t.name: (t.tensor_type.name, tuple(t.shape.tolist()), t.data.tobytes()) for t in reader.tensors}
    return values, tensors
