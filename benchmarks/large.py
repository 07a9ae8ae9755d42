"""A model of Llama-3-8B's shape with random weights, in bfloat16: facts per second on a GPU, and its bytes.

    python -m benchmarks large --device cuda:0

Speed does not depend on what weights say, so none are fetched. `--quick` takes a small shape, on any device.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks import reference
from benchmarks.facts import some_facts
from benchmarks.places import Options
from benchmarks.report import Report, Row
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import search_targets
from memit_vc.numerics.exact.factored import LowRank, Term
from memit_vc.numerics.exact.grid import quantum, snap
from memit_vc.numerics.exact.materialise import materialise
from memit_vc.numerics.exact.materialise_near import gives_the_cpus_bytes
from memit_vc.numerics.forward.templates import parse_templates, sample_templates
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.objects import EditableWeight, Fact

__all__ = ["ours", "random_model", "run", "same_bytes", "theirs"]

_SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 10,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def run(options: Options) -> Report:
    """100 facts of ours against 3 of the reference's, 25 steps each; a weight on the device against the CPU."""
    hparams = MEMITHyperParams.from_hparams("llama-3-8b").replace(early_stop="loss", early_stop_loss=0.0)
    if options.quick:
        hparams = hparams.replace(v_num_grad_steps=2, v_loss_layer=9)
    adapter = random_model(options)
    texts = sample_templates(adapter, seed=0, length=10, prefixes=("The", "Therefore", "Because", "I", "You"))
    facts = some_facts(options.count(100), options.edits)
    ours(adapter, facts[:2], hparams.replace(v_num_grad_steps=2), texts)  # what only a first call does
    seconds = ours(adapter, facts, hparams, texts)
    few = facts[:3]
    slow = theirs(adapter, few, hparams, texts)
    rows = [
        Row(
            f"search for z, seconds a fact ({len(facts)} of ours, {len(few)} of the reference)",
            seconds / len(facts),
            slow / len(few),
            more={"facts per second": len(facts) / seconds, "of the reference": len(few) / slow},
        ),
        Row("materialised on the device: the CPU's bytes", float(same_bytes(adapter)), unit="", goal=("≥", 1.0)),
        Row("the device passes the test that lets weights be materialised there", float(_trusted(adapter)), unit=""),
    ]
    settings = {
        "shape": "small" if options.quick else "Llama-3-8B",
        "dtype": "bfloat16",
        "device": options.device,
        "steps": hparams.v_num_grad_steps,
    }
    return Report("large", "a random model of a large one's shape", "the reference's way of working", settings, rows)


def random_model(options: Options) -> ModelAdapter:
    """Llama-3-8B's shape, or a small one with `quick`, with the tokenizer of the options' model."""
    shape = {**_SHAPE, **(_SMALL if options.quick else {})}
    tokenizer = AutoTokenizer.from_pretrained(options.directory(), local_files_only=True)
    config = LlamaConfig(**shape)
    with torch.device(options.device):
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(before)
    return ModelAdapter.of(model, tokenizer)


def ours(
    adapter: ModelAdapter, facts: Sequence[Fact], hparams: MEMITHyperParams, texts: Sequence[Sequence[str]]
) -> float:
    """Seconds of our search."""
    began = time.perf_counter()
    found = search_targets(adapter, facts, hparams=hparams, templates=parse_templates(texts))
    float(found.z.sum())  # waits for the device
    return time.perf_counter() - began


def theirs(
    adapter: ModelAdapter, facts: Sequence[Fact], hparams: MEMITHyperParams, texts: Sequence[Sequence[str]]
) -> float:
    """Seconds of the reference's search, fact by fact."""
    setting = reference.setting_of(hparams, texts, stop_below=0.0)
    for parameter in adapter.model.parameters():
        parameter.requires_grad_(False)
    began = time.perf_counter()
    found = [reference.z_of(adapter, fact, setting)[0] for fact in facts]
    float(sum(z.sum() for z in found))
    return time.perf_counter() - began


def same_bytes(adapter: ModelAdapter) -> bool:
    """One down projection with a hundred columns, on the model's device and on the CPU."""
    d_out, d_in = adapter.dimensions(5)
    base = adapter.weight(5).detach().cpu().clone()
    weight = EditableWeight(
        name="w",
        parameter=adapter.parameter_name(5),
        layer=5,
        orientation="out_in",
        d_out=d_out,
        d_in=d_in,
        dtype="BF16",
        quantum=quantum(float(base.abs().max())),
    )
    random = torch.Generator().manual_seed(0)
    left = torch.randn(d_out, 100, generator=random) * 0.01
    right = torch.randn(100, d_in, generator=random) * 0.01
    terms: list[Term] = [LowRank(*snap(left.numpy(), right.numpy(), weight.quantum))]
    there = materialise(base, terms, weight, device=adapter.weight(5).device)
    return torch.equal(there.view(torch.int16), materialise(base, terms, weight).view(torch.int16))


def _trusted(adapter: ModelAdapter) -> bool:
    return gives_the_cpus_bytes(adapter.weight(5).device)
