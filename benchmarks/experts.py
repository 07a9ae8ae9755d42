"""A mixture of Qwen3-30B-A3B's shape, cut to four layers: commit, checkout and verify, and how much memory each takes.

    python -m benchmarks.experts [--experts 128] [--layers 4] [--directory DIR]

Makes a synthetic checkpoint of qwen3_moe in bfloat16 under DIR (by default the system's temporary directory): hidden
size 2048, experts of 768 inputs, a vocabulary that is cut. Then `init`, a commit of ten columns that were drawn and
reach a part of the experts of every layer, its checkout, `verify`, and the checkout of a second commit that reaches
twice as many experts, each in a process of its own. The promise: no step takes more than 2 GB beyond one layer, and the
bytes of a checkout go with the experts that are reached. Linux.

Projections that are not edited are zeros in sparse files, but they are read, hashed and copied in full: twice the size
of the checkpoint, some 11 GB, is needed on the disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.checkout import peak, written

HIDDEN, INNER, HEADS, KEY_HEADS, HEAD = 2048, 768, 32, 4, 128
COLUMNS, REACHED = 10, 0.25
"""Columns of a commit, and the share of each layer's experts that the first one reaches."""
MOST = 2.0
"""GB beyond one layer."""
RESULTS = Path(__file__).parent / "results" / "experts.json"


def config_of(layers: int, experts: int, vocabulary: int) -> dict[str, Any]:
    """Qwen3-30B-A3B's, cut."""
    return {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": 6144,
        "moe_intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "head_dim": HEAD,
        "num_experts": experts,
        "num_experts_per_tok": min(8, experts),
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


def layer_shapes(layer: int, experts: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer, as the published checkpoint names them."""
    prefix = f"model.layers.{layer}."
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}self_attn.q_proj.weight": (HEADS * HEAD, HIDDEN),
        f"{prefix}self_attn.k_proj.weight": (KEY_HEADS * HEAD, HIDDEN),
        f"{prefix}self_attn.v_proj.weight": (KEY_HEADS * HEAD, HIDDEN),
        f"{prefix}self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD),
        f"{prefix}self_attn.q_norm.weight": (HEAD,),
        f"{prefix}self_attn.k_norm.weight": (HEAD,),
        f"{prefix}input_layernorm.weight": (HIDDEN,),
        f"{prefix}post_attention_layernorm.weight": (HIDDEN,),
        f"{prefix}mlp.gate.weight": (experts, HIDDEN),
    }
    for expert in range(experts):
        shapes |= {f"{prefix}mlp.experts.{expert}.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes[f"{prefix}mlp.experts.{expert}.down_proj.weight"] = (HIDDEN, INNER)
    return shapes


def make(root: Path, layers: int, experts: int) -> dict[str, Any]:
    """The checkpoint, a shard for each layer; the edited projections hold random numbers."""
    import torch

    from memit_vc.store.safetensors_file import parse_header, write_header
    from tests.support.models import tokenizer

    words = tokenizer()
    model = root / "model"
    model.mkdir()
    words.save_pretrained(model)
    (model / "config.json").write_text(json.dumps(config_of(layers, experts, len(words))))
    whole = {name: (len(words), HIDDEN) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    shards = [layer_shapes(layer, experts) for layer in range(layers)]
    shards[-1] |= {**whole, "model.norm.weight": (HIDDEN,)}
    generator, index, total = torch.Generator().manual_seed(0), dict[str, str](), 0
    for number, shapes in enumerate(shards):
        file = f"model-{number + 1:05}-of-{layers:05}.safetensors"
        index |= dict.fromkeys(shapes, file)
        head = write_header({name: ("BF16", shape) for name, shape in shapes.items()}, {"format": "pt"})
        size = len(head) + sum(2 * shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes.values())
        header = parse_header(head, size, source=file)
        total += size
        with (model / file).open("wb") as shard:
            shard.write(head)
            shard.truncate(size)
            for name in shapes:
                if "down_proj" in name:
                    shard.seek(header.data_start + header.tensors[name].begin)
                    block = (torch.randn(HIDDEN, INNER, generator=generator) * 0.02).bfloat16()
                    shard.write(block.view(torch.uint8).numpy().tobytes())
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    layer_bytes = 2 * sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in layer_shapes(0, experts).values())
    return {"checkpoint_bytes": total, "layer_bytes": layer_bytes, "expert_bytes": 2 * HIDDEN * INNER}


def start(root: Path, layers: int) -> dict[str, Any]:
    """`init`; every layer is among those that are edited."""
    from memit_vc.porcelain.setup import init
    from memit_vc.repository import Repository

    init(str(root / "model"), directory=root / "work")
    with Repository.open(root / "work") as repository:
        values = repository.hparams().replace(layers=list(range(layers)))
        repository.hparams_path.write_text(values.to_yaml())
    return {}


def commit(root: Path, number: int) -> dict[str, Any]:
    """Ten columns with random factors, in a part of the experts of each layer that grows with `number`."""
    import numpy as np

    from memit_vc.numerics.exact.constraints import encode_constraints
    from memit_vc.numerics.exact.factored import LowRank
    from memit_vc.numerics.exact.grid import snap
    from memit_vc.objects import Fact, PatchColumn, canonical_json
    from memit_vc.porcelain.editing.pack import pack
    from memit_vc.porcelain.record import draft, record
    from memit_vc.repository import Repository
    from memit_vc.vcs.state import Change

    random = np.random.default_rng(number)
    facts = [
        Fact(prompt=f"Object {n} has the colour", subject=f"Object {n}", target=f"hue {n}")
        for n in range(number * COLUMNS, (number + 1) * COLUMNS)
    ]
    with Repository.open(root / "work") as repository:
        every = repository.weights()
        experts = 1 + max(weight.expert or 0 for weight in every)
        reached = [weight for weight in every if (weight.expert or 0) < REACHED * experts * number]
        lefts = {layer: random.normal(size=(HIDDEN, COLUMNS)) * 0.01 for layer in {w.layer for w in every}}
        rights = {weight.name: random.normal(size=(COLUMNS, INNER)) * 0.01 for weight in reached}
        tensors = {w.name: LowRank(*snap(lefts[w.layer], rights[w.name], w.quantum)) for w in reached}
        constraints = encode_constraints(
            {weight.name: rights[weight.name].T for weight in reached},
            {weight.name: lefts[weight.layer] for weight in reached if weight.expert == 0},
            random.normal(size=(COLUMNS, HIDDEN)),
        )
        columns = [PatchColumn(fact=fact.id) for fact in facts]
        provenance = canonical_json({"algorithm": "random", "seed": number})
        patch, blobs = pack(repository, columns, tensors, constraints=constraints, provenance=provenance)
        head = repository.head()
        made = draft(
            repository,
            [head.commit],
            Change(frozenset(patch.columns), frozenset()),
            kind="commit",
            message=f"ten drawn columns, number {number}",
            patches=[patch.id],
            provenance=patch.header.provenance,
        )
        record(repository, head, [made], patches=[patch], blobs=blobs, facts=facts)
    return {"reached": len(reached), "patch_bytes": len(blobs[-1]), "constraints_bytes": len(constraints)}


def check_out(root: Path, number: int) -> dict[str, Any]:
    """The newest state, into a directory of its own. The base is split if that is needed."""
    from memit_vc.porcelain.output.checkout import checkout
    from memit_vc.repository import Repository

    with Repository.open(root / "work") as repository:
        made = checkout(repository, "HEAD", root / f"out{number}")
    return {"hot_bytes": made.hot_bytes}


def proved(root: Path, number: int) -> dict[str, Any]:
    """`verify` of the newest state, which is materialised once more for it."""
    from memit_vc.porcelain.output.verify import verify
    from memit_vc.repository import Repository

    with Repository.open(root / "work") as repository:
        found = verify(repository, root / f"out{number}")
        assert found.state == repository.state_id(repository.state(repository.head().commit))
    return {"tensors": found.compared}


def forget(root: Path) -> None:
    """Take the hashes back that the checkout recorded, so that `verify` materialises the state itself."""
    from memit_vc.porcelain.output.recorded import take_back
    from memit_vc.repository import Repository

    with Repository.open(root / "work") as repository:
        take_back(repository, repository.state_id(repository.state(repository.head().commit)))


def stage(name: str, root: Path, layers: int, experts: int) -> dict[str, Any]:
    """One step, in this process."""
    kind, _, number = name.partition("-")
    began, before = time.perf_counter(), written()
    steps: Mapping[str, Any] = {
        "make": lambda: make(root, layers, experts),
        "init": lambda: start(root, layers),
        "commit": lambda: commit(root, int(number)),
        "checkout": lambda: check_out(root, int(number)),
        "verify": lambda: proved(root, int(number)),
    }
    found = steps[kind]()
    return {**found, "seconds": time.perf_counter() - began, "written": written() - before, "rss_mb": peak()}


def measure(root: Path, layers: int, experts: int) -> dict[str, Any]:
    """Every step in a process of its own."""

    def run(name: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.experts", "--stage", name, "--directory", str(root)]
        command += ["--layers", str(layers), "--experts", str(experts)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {json.dumps(found)}", file=sys.stderr, flush=True)
        return found

    sizes, steps = run("make"), dict[str, dict[str, Any]]()
    for name in ("init", "commit-1", "checkout-1", "verify-1", "commit-2", "checkout-2"):
        if name.startswith("verify"):
            forget(root)
        steps[name] = run(name)
        if name == "verify-1":
            shutil.rmtree(root / "out1")
    beyond = {name: step["rss_mb"] / 1e3 - sizes["layer_bytes"] / 1e9 for name, step in steps.items()}
    per_expert = [
        steps[f"checkout-{n}"]["hot_bytes"] / (steps[f"commit-{n}"]["reached"] * sizes["expert_bytes"]) for n in (1, 2)
    ]
    return {
        **{name: sizes[name] for name in ("checkpoint_bytes", "layer_bytes", "expert_bytes")},
        "layers": layers,
        "experts": experts,
        "steps": steps,
        "gb_beyond_a_layer": beyond,
        "ratios": {
            "memory_to_promise": max(step["rss_mb"] / 1e3 for step in steps.values())
            / (sizes["layer_bytes"] / 1e9 + MOST),
            "hot_bytes_to_touched_experts": per_expert,
        },
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--directory", type=Path, help="where to work; everything made there is deleted")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file for the results")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage is not None:
        print(json.dumps(stage(options.stage, options.directory, options.layers, options.experts)))
        return
    root = Path(tempfile.mkdtemp(prefix="memitvc-experts-", dir=options.directory))
    try:
        results = measure(root, options.layers, options.experts)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    options.results.parent.mkdir(exist_ok=True)
    options.results.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results["ratios"], indent=2))


if __name__ == "__main__":
    main()
