"""Values for a model without a file of its own, and plain sentences that say what was guessed and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from memit_vc.hparams.params import MEMITHyperParams

_LAYERS = 5
_DEPTH = 0.14
"""Share of the depth at which editing starts: layer 3 or 4 of 28 to 32 in every published setting but GPT-2's."""
_DEPTH_BY_TYPE = {"gpt2": 0.27}  # layers 13 to 17 of 48 in the reference implementation's file for GPT-2 XL
_WEIGHT, _WIDTH = 2000.0, 1536
"""λ measured on SmolLM2-135M, and the width of its keys."""


def guess(
    *, model_type: str, n_layers: int, widths: Mapping[int, int], hidden_size: int, modules: Mapping[str, str]
) -> tuple[MEMITHyperParams, list[str]]:
    """Hyperparameters from a model's config, and one sentence per guess.

    `widths` has the width of the edited projection's input, of each layer that may be chosen: the first layers of some
    mixtures of experts are dense, and have no experts to edit. `modules` has the keys rewrite, layer, mlp, attn
    (templates with "{}" for the layer), ln_f and lm_head.
    """
    layers = _layers(model_type, n_layers, widths)
    width = widths[layers[-1]]
    weight = _weight(width)
    params = MEMITHyperParams(
        layers=layers,
        v_loss_layer=n_layers - 1,
        mom2_update_weight=weight,
        rewrite_module_tmp=modules["rewrite"],
        layer_module_tmp=modules["layer"],
        mlp_module_tmp=modules["mlp"],
        attn_module_tmp=modules["attn"],
        ln_f_module=modules["ln_f"],
        lm_head_module=modules["lm_head"],
    )
    gaps = layers[-1] - layers[0] >= len(layers)
    span = f"layers {', '.join(map(str, layers))}" if gaps else f"layers {layers[0]} to {layers[-1]}"
    span = span if len(layers) > 1 else f"layer {layers[0]}"
    share = _DEPTH_BY_TYPE.get(model_type, _DEPTH)
    sentences = [
        f"{span} of {n_layers}: about {share:.0%} of the depth, where published settings for models of this kind start "
        "(4-8 of 32 in Llama-2-7B, 13-17 of 48 in GPT-2 XL); not measured on this model.",
        f"λ = {weight:g} for keys of width {width}: kᵀC⁻¹k is the width on average, so λ in proportion to it keeps the "
        "share of an edit that a typical key realises; 2000 was measured at width 1536 (SmolLM2-135M). EasyEdit's "
        "files have 15000 to 20000 for 7B and GPT-2 XL. Raise λ if other answers suffer, lower it if edits fail.",
        "Step size, steps, clamp and weight decay are those measured on SmolLM2-135M "
        f"(hidden size 576, here {hidden_size}).",
    ]
    if n_layers - 1 == layers[-1]:
        sentences.append("The last edited layer is the model's last: no block is left above it to read the edit.")
    return params, sentences


def _layers(model_type: str, n_layers: int, among: Collection[int]) -> list[int]:
    """Five layers by depth, fewer in a shallow model; a block is left above if there are two."""
    start = round(n_layers * _DEPTH_BY_TYPE.get(model_type, _DEPTH))
    last = max(0, n_layers - 2)
    start = min(max(start, 1), last)
    return [layer for layer in range(start, last + 1) if layer in among][:_LAYERS] or [max(among)]


def _weight(d_in: int) -> float:
    """λ ∝ d_in, to two digits."""
    return float(f"{_WEIGHT * d_in / _WIDTH:.2g}")
