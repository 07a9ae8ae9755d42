"""A state's update as a PEFT LoRA adapter: files that `PeftModel.from_pretrained` and vLLM read.

PEFT computes W x + s·B (A x) with s = alpha / r. With B the left factors, A the right ones and s = 1 that is D x: the
adapter holds the very numbers of the patches. What differs from the materialised weights is rounding alone: the product
is taken in float32 at run time and nothing is rounded to the storage dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memit_vc.numerics.exact.blob import encode
from memit_vc.numerics.exact.factored import LowRank, Term, beside_identity, check_terms, of_rank, stacked, summed
from memit_vc.objects import EditableWeight, JsonValue

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""What PEFT puts in front of a module's path."""


@dataclass(frozen=True)
class LoraLayer:
    """D of one weight as B @ A, float32: B [d_out, r] is `update.left`, A [r, d_in] `update.right`. `error` is
    ‖D − BA‖ / ‖D‖, 0 if none was made on purpose (see `lora_layer`).
    """

    weight: EditableWeight
    update: LowRank
    error: float = 0.0

    @property
    def rank(self) -> int:
        return self.update.rank

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
    IntegrityError and EngineError as for `check_terms`.
    """
    check_terms(added, weight)
    check_terms(removed, weight)
    full = min(weight.d_out, weight.d_in)
    signed = [(term, sign) for terms, sign in ((added, 1), (removed, -1)) for term in terms]
    low_rank = [LowRank(term.left * sign, term.right) for term, sign in signed if isinstance(term, LowRank)]
    columns = stacked(low_rank, weight.d_out, weight.d_in)
    if len(low_rank) == len(signed) and columns.rank <= full:
        if max_rank is None or columns.rank <= max_rank:
            return LoraLayer(weight, columns)
        u, s, vh = columns.svd()
    else:
        total = summed(added, weight) - summed(removed, weight)
        if max_rank is None or max_rank >= full:
            return LoraLayer(weight, beside_identity(total.astype(np.float32)))
        u, s, vh = np.linalg.svd(total, full_matrices=False)
    best, whole = of_rank(max_rank, u, s, vh), float(np.linalg.norm(s))
    error = float(np.linalg.norm(s[max_rank:])) / whole if whole else 0.0
    return LoraLayer(weight, LowRank(best.left.astype(np.float32), best.right.astype(np.float32)), error)


def adapter_weights(layers: Sequence[LoraLayer]) -> bytes:
    """`adapter_model.safetensors`."""
    arrays = {}
    for layer in layers:
        arrays[f"{_PREFIX}{layer.module}.lora_A.weight"] = layer.update.right
        arrays[f"{_PREFIX}{layer.module}.lora_B.weight"] = layer.update.left
    return encode(arrays, {"format": "pt"})


def adapter_config(layers: Sequence[LoraLayer], *, base: str | None, revision: str | None) -> dict[str, JsonValue]:
    """`adapter_config.json`. `base` is the Hub id that PEFT loads, `revision` its Hub commit; None for a local
    directory.

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
