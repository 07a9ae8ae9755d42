"""Model families as data: one table keyed by `config.model_type`, and inspection for what is not in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn
from transformers.pytorch_utils import Conv1D

from memit_vc.errors import HparamsError, UnsupportedModelError
from memit_vc.hparams import MEMITHyperParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Module paths of one family. `block` has one "{}" for the layer; `mlp_out` and `attention` are below the block."""

    block: str
    mlp_out: str
    attention: str
    norm: str | None
    head: str = "lm_head"
    after_norm: str | None = None
    """A projection between norm and head, if the checkpoint has one (OPT-350m)."""
    dense: str | None = None
    """The projection of the layers of a mixture that have no experts."""
    expert: str | None = None
    """Name, below the block, of an expert's tensor in checkpoints, with one "{}" for its number; without, of the tensor
    that holds all experts of a layer.
    """

    @property
    def rewrite(self) -> str:
        """Template of the edited projection, e.g. model.layers.{}.mlp.down_proj."""
        return f"{self.block}.{self.mlp_out}"

    @property
    def mlp(self) -> str:
        """Template of the module that holds the projection; the block itself if there is no separate MLP."""
        return self.rewrite.rpartition(".")[0]


def _llama_like(mlp_out: str = "mlp.down_proj", norm: str = "model.norm") -> Architecture:
    return Architecture(block="model.layers.{}", mlp_out=mlp_out, attention="self_attn", norm=norm)


def _gpt_like(mlp_out: str, attention: str = "attn") -> Architecture:
    return Architecture(block="transformer.h.{}", mlp_out=mlp_out, attention=attention, norm="transformer.ln_f")


ARCHITECTURES: Mapping[str, Architecture] = {
    "gpt2": _gpt_like("mlp.c_proj"),
    "gpt_neo": _gpt_like("mlp.c_proj"),
    "gptj": _gpt_like("mlp.fc_out"),
    "bloom": _gpt_like("mlp.dense_4h_to_h", "self_attention"),
    "falcon": _gpt_like("mlp.dense_4h_to_h", "self_attention"),
    "gpt_neox": Architecture(
        block="gpt_neox.layers.{}",
        mlp_out="mlp.dense_4h_to_h",
        attention="attention",
        norm="gpt_neox.final_layer_norm",
        head="embed_out",
    ),
    "opt": Architecture(
        block="model.decoder.layers.{}",
        mlp_out="fc2",
        attention="self_attn",
        norm="model.decoder.final_layer_norm",
        after_norm="model.decoder.project_out",
    ),
    "phi": _llama_like("mlp.fc2", "model.final_layernorm"),
    "starcoder2": _llama_like("mlp.c_proj"),
    **{
        name: _llama_like()
        for name in (
            "gemma",
            "gemma2",
            "gemma3_text",
            "llama",
            "mistral",
            "olmo2",
            "phi3",
            "qwen2",
            "qwen3",
            "smollm3",
            "stablelm",
        )
    },
}

_APART = "mlp.experts.{}.down_proj.weight"

MIXTURES: Mapping[str, Architecture] = {
    name: replace(_llama_like(experts), dense="mlp.down_proj", expert=tensor)
    for name, experts, tensor in (
        ("deepseek_v2", "mlp.experts", _APART),
        ("deepseek_v3", "mlp.experts", _APART),
        ("gpt_oss", "mlp.experts", "mlp.experts.down_proj"),
        ("granitemoe", "block_sparse_moe.experts", "block_sparse_moe.output_linear.weight"),
        ("mixtral", "mlp.experts", "block_sparse_moe.experts.{}.w2.weight"),
        ("olmoe", "mlp.experts", _APART),
        ("qwen2_moe", "mlp.experts", _APART),
        ("qwen3_moe", "mlp.experts", _APART),
    )
}
"""Families whose `mlp_out` is the module that holds the experts."""

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def architecture_of(model: nn.Module, model_type: str) -> Architecture:
    """The family's entry, or what inspection of the module tree finds; UnsupportedModelError if ambiguous."""
    refuse_experts(model, model_type)
    known = ARCHITECTURES.get(model_type) or MIXTURES.get(model_type)
    if known is None:
        return _inspect(model, model_type)
    if model_type == "gpt_neox" and (head := _head_of(model)) is not None:
        return replace(known, head=head)  # embed_out in some versions of transformers, lm_head in others
    return known


def named_architecture(hparams: MEMITHyperParams, model_type: str) -> Architecture:
    """The parts as a hyperparameter file names them. HparamsError if they are not parts of one block."""
    block = hparams.layer_module_tmp
    known = ARCHITECTURES.get(model_type) or MIXTURES.get(model_type)
    for key in ("rewrite_module_tmp", "attn_module_tmp"):
        if not getattr(hparams, key).startswith(f"{block}."):
            raise HparamsError(
                f"{hparams.source}: {key} {getattr(hparams, key)!r} is not inside layer_module_tmp {block!r}",
                hint="Name parts of one block in both.",
            )
    named = Architecture(
        block=block,
        mlp_out=hparams.rewrite_module_tmp.removeprefix(f"{block}."),
        attention=hparams.attn_module_tmp.removeprefix(f"{block}."),
        norm=hparams.ln_f_module or None,
        head=hparams.lm_head_module,
    )
    if known is None:
        return named
    return replace(named, after_norm=known.after_norm, dense=known.dense, expert=known.expert)


def architecture_for(model: nn.Module, model_type: str, hparams: MEMITHyperParams | None) -> Architecture:
    """What the table or inspection finds, unless `hparams` name other parts; these alone if nothing is found.

    UnsupportedModelError if nothing is found and nothing is named; HparamsError as `named_architecture`.
    """
    if hparams is None:
        return architecture_of(model, model_type)
    refuse_experts(model, model_type)
    named = named_architecture(hparams, model_type)
    try:
        found = architecture_of(model, model_type)
    except UnsupportedModelError:
        return named
    same = (found.rewrite, found.norm, found.head) == (named.rewrite, named.norm, named.head)
    return found if same else replace(found, block=named.block, mlp_out=named.mlp_out, norm=named.norm, head=named.head)


def refuse_experts(model: nn.Module, model_type: str) -> None:
    """UnsupportedModelError for a mixture of experts that is not in the table, whatever names a hyperparameter file
    gives its parts.
    """
    if model_type not in MIXTURES:
        refuse_mixtures(model, model_type)


def refuse_mixtures(model: nn.Module, model_type: str) -> None:
    """UnsupportedModelError for any mixture of experts."""
    config = getattr(model, "config", None)
    counted = any((getattr(config, name, None) or 0) > 1 for name in _EXPERTS)
    if counted or any(name.endswith(".experts") for name, _ in model.named_modules()):
        raise UnsupportedModelError(
            f"{model_type} is a mixture of experts: a fact is spread over projections that a router chooses between",
            hint="Edit a dense model of the family instead: MEMIT needs one down projection per layer.",
        )


def _inspect(model: nn.Module, model_type: str) -> Architecture:
    """Find the one list of like blocks, and in a block the one projection back to the hidden size outside attention."""
    modules = dict(model.named_modules())
    stacks = {
        name: module
        for name, module in modules.items()
        if isinstance(module, nn.ModuleList) and len(module) > 1 and len({type(m) for m in module}) == 1
    }
    outer = [name for name in stacks if not any(name.startswith(other + ".") for other in stacks)]
    hidden = getattr(model.config, "hidden_size", None)
    if len(outer) != 1 or hidden is None:
        raise _unknown(model_type, f"its block lists are {sorted(outer) or 'not found'}")
    stack = outer[0]
    found = [
        name
        for name, module in stacks[stack][0].named_modules()
        if _sizes(module)[1] == hidden and not any("att" in part.lower() for part in name.split("."))
    ]
    back = [name for name in found if _sizes(modules[f"{stack}.0.{name}"])[0] != hidden] or found
    owner = stack.rpartition(".")[0]
    norms = [
        f"{owner}.{name}"
        for name, child in modules[owner].named_children()
        if "norm" in type(child).__name__.lower() and not name.startswith(("embed", "word"))
    ]
    head = _head_of(model)
    attention = next((n for n, _ in stacks[stack][0].named_children() if "att" in n.lower()), "attention")
    if len(back) != 1 or len(norms) != 1 or head is None:
        raise _unknown(model_type, f"projections back to the hidden size: {back}; final norms: {norms}; head: {head}")
    return Architecture(block=f"{stack}.{{}}", mlp_out=back[0], attention=attention, norm=norms[0], head=head)


def _head_of(model: nn.Module) -> str | None:
    """The name of the module that gives the logits."""
    found = model.get_output_embeddings()  # type: ignore[operator]
    return next((name for name, module in model.named_modules() if module is found), None)


def _sizes(module: nn.Module) -> tuple[int | None, int | None]:
    """How many inputs and outputs a projection has; None for another module."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return tuple(module.weight.shape) if isinstance(module, Conv1D) else (None, None)


def _unknown(model_type: str, found: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"model type {model_type!r} is not in memit-vc's table and its module tree is ambiguous: {found}",
        hint=(
            "Write a hyperparameter file that names rewrite_module_tmp, layer_module_tmp, ln_f_module and "
            "lm_head_module (see hparams/ for examples) and pass it with --hparams."
        ),
    )
