"""A state's update as a PEFT LoRA adapter: files that `PeftModel.from_pretrained` and vLLM read.

PEFT computes W x + s·B (A x) with s = alpha / r. With B the left factors, A the right ones and s = 1 that is D x: the
adapter holds the very numbers of the patches. What differs from the materialised weights is rounding alone: the product
is taken in float32 at run time and nothing is rounded to the storage dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor

from memit_vc.numerics.exact.materialise import Materialiser, Term
from memit_vc.numerics.exact.patchfile import Dense, LowRank
from memit_vc.objects import EditableWeight, JsonValue

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "LoraLayer", "adapter_config", "adapter_weights", "lora_layer"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""What PEFT puts in front of a module's path."""


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """D of one weight as B @ A, float32: `b` [d_out, r], `a` [r, d_in]. `error` is ‖D − BA‖ / ‖D‖, 0 where none was
    made on purpose (see `lora_layer`).
    """

    weight: EditableWeight
    a: Tensor
    b: Tensor
    error: float = 0.0

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    @property
    def module(self) -> str:
        """The module's path in the loaded model."""
        return self.weight.parameter.removesuffix(".weight")


def lora_layer(
    added: Sequence[Term], removed: Sequence[Term], weight: EditableWeight, *, max_rank: int | None = None
) -> LoraLayer:
    """The difference Σ added − Σ removed of one weight as a LoRA pair.

    Low-rank columns are taken as they are. Where dense updates are among them, or more columns than the matrix has
    rows or columns, D itself stands on one side and the identity on the other (float32: a relative error of 6e-8).
    `max_rank` below the rank takes the truncated SVD, the best approximation of that rank; its error is measured.
    IntegrityError and EngineError as for `Materialiser`.
    """
    Materialiser(added, weight)
    Materialiser(removed, weight)
    full = min(weight.d_out, weight.d_in)
    low_rank = [
        (term.left * sign, term.right)
        for terms, sign in ((added, 1.0), (removed, -1.0))
        for term in terms
        if isinstance(term, LowRank)
    ]
    b = torch.cat([torch.empty(weight.d_out, 0), *(left for left, _ in low_rank)], dim=1)
    a = torch.cat([torch.empty(0, weight.d_in), *(right for _, right in low_rank)], dim=0)
    dense = any(isinstance(term, Dense) for term in (*added, *removed))
    if not dense and a.shape[0] <= full:
        if max_rank is None or a.shape[0] <= max_rank:
            return LoraLayer(weight, a, b)
        return _truncated_factors(weight, a.double(), b.double(), max_rank)
    total = Materialiser(added, weight).delta(slice(None)) - Materialiser(removed, weight).delta(slice(None))
    if max_rank is not None and max_rank < full:
        u, s, vh = torch.linalg.svd(total, full_matrices=False)
        return _pair(weight, u, s, vh, max_rank)
    exact, identity = total.float(), torch.eye(full)
    return LoraLayer(weight, identity, exact) if weight.d_in <= weight.d_out else LoraLayer(weight, exact, identity)


def adapter_weights(layers: Sequence[LoraLayer]) -> bytes:
    """`adapter_model.safetensors`."""
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        tensors[f"{_PREFIX}{layer.module}.lora_A.weight"] = layer.a.contiguous()
        tensors[f"{_PREFIX}{layer.module}.lora_B.weight"] = layer.b.contiguous()
    return bytes(save(tensors, {"format": "pt"}))


def adapter_config(layers: Sequence[LoraLayer], *, base: str, revision: str | None) -> dict[str, JsonValue]:
    """`adapter_config.json`. `base` is the Hub id or path that PEFT loads, `revision` its Hub commit.

    Full module paths as targets: nothing but the edited layers is wrapped. `r` and `lora_alpha` are the largest rank,
    and every layer of another rank has both in the patterns, so that the scale is exactly 1 everywhere; a reader that
    ignores the patterns (vLLM) still finds alpha / r = 1.
    """
    rank = max(layer.rank for layer in layers)
    others: Mapping[str, int] = {layer.module: layer.rank for layer in layers if layer.rank != rank}
    conv1d = {layer.weight.orientation == "in_out" for layer in layers}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": dict(others),
        "alpha_pattern": dict(others),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": conv1d == {True},
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "target_modules": sorted(layer.module for layer in layers),
        "modules_to_save": None,
    }


def _truncated_factors(weight: EditableWeight, a: Tensor, b: Tensor, rank: int) -> LoraLayer:
    """SVD of B A by way of the two small QR factors: the product is never formed."""
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return _pair(weight, q_b @ u, s, vh @ q_a.T, rank)


def _pair(weight: EditableWeight, u: Tensor, s: Tensor, vh: Tensor, rank: int) -> LoraLayer:
    whole = float(s.norm())
    root = s[:rank].sqrt()
    return LoraLayer(
        weight,
        (root[:, None] * vh[:rank]).float(),
        (u[:, :rank] * root).float(),
        float(s[rank:].norm()) / whole if whole else 0.0,
    )
