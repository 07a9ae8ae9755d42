"""The same numbers on a GPU: the golden cases, a repository's verbs, bytes of weights, and too little memory."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.gpu_run import Run
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import compute_edit
from memit_vc.numerics.exact.materialise_near import gives_the_cpus_bytes
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.checkpoint_tensors import tensor_digest
from memit_vc.numerics.search import targets
from memit_vc.numerics.search.targets import Targets, find_targets
from memit_vc.numerics.statistics.factors import Factor, factorise
from memit_vc.objects import Fact
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.verify import verify
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.setup import init
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from tests.support.models import FACTS, SENTENCES, hparams_for, load, tiny
from tests.support.paths import GOLDEN

__all__ = ["golden", "scarce", "verbs"]


def golden(run: Run) -> None:
    """The reference's own numbers, to the tolerances of tests/numerics/edit/test_golden.py."""
    for name in ("llama",) if run.small else ("gpt2", "llama", "gptj"):
        case = GOLDEN / name
        expected = load_file(case / "expected.safetensors")
        adapter = load(case)
        adapter.model.to(run.device)
        hparams = MEMITHyperParams.from_hparams(case / "hparams.yaml").replace(history=False)
        records = json.loads((case / "requests.json").read_text())
        facts = [Fact(prompt=r["prompt"], subject=r["subject"], target=r["target_new"]) for r in records]

        def factor(layer: int, moments: Any = expected, weight: float = hparams.mom2_update_weight) -> Factor:
            return factorise(moments[f"second_moment.{layer}"], weight)

        templates = parse_templates(json.loads((case / "context_templates.json").read_text()))
        edit = compute_edit(adapter, facts, hparams=hparams, templates=templates, factor=factor)
        run.exact(f"golden {name}: z", _distance(edit.targets.z, expected["z"]), ("≤", 1e-5))
        for what, attribute in (("adj_k", "adjusted"), ("resid", "residual")):
            apart = [_distance(getattr(edit.updates[n], attribute), expected[f"{what}.{n}"]) for n in hparams.layers]
            run.exact(f"golden {name}: {attribute}", max(apart), ("≤", 1e-4))


def verbs(run: Run) -> None:
    """A commit on the device; its weights computed there and on the CPU; checkout, verify, revert."""
    run.exact("materialised on the device: the CPU's bytes", float(gives_the_cpus_bytes(run.device)), ("≥", 1))
    for dtype in ("float32",) if run.small else ("float32", "bfloat16"):
        root = run.work / dtype
        base = tiny("llama", root / "base", dtype=dtype)
        text = root / "text.txt"
        text.write_text("\n\n".join(SENTENCES), encoding="utf-8")
        steps = 4 if run.small else 12
        values = hparams_for(load(base), search_for="residuals", v_num_grad_steps=steps, device=str(run.device))
        (root / "hparams.yaml").write_text(values.to_yaml(), encoding="utf-8")
        (root / "work").mkdir()
        named = {"hparams": root / "hparams.yaml", "corpus": str(text), "health": str(text)}
        init(str(base), directory=root / "work", **named)
        with Repository.open(root / "work") as repository:
            loaded = load_model(repository, device=str(run.device))
            made = commit_facts(repository, FACTS[:3], loaded=loaded)
            there = loaded.materialised(LiveState.at(repository, made.id))
            hashes = checkout(repository, "HEAD", root / "out").tensors
            same = all(hashes[loaded.weights[n].name] == tensor_digest(weight) for n, weight in there.items())
            run.exact(f"{dtype}: hashes of device and CPU are equal", float(same), ("≥", 1))
            proved = made.id in verify(repository, root / "out").commits
            run.exact(f"{dtype}: the checkout is proved", float(proved), ("≥", 1))
            revert(repository, [made.id])
            checkout(repository, "HEAD", root / "none")
            run.exact(f"{dtype}: reverted, the base", float(verify(repository, root / "none").is_base), ("≥", 1))
            run.exact(f"{dtype}: fsck finds", len(repository.fsck()), ("≤", 0))


def scarce(run: Run) -> None:
    """A search that runs out of memory finds what it finds otherwise."""
    sizes = {} if run.small else {"hidden_size": 512, "intermediate_size": 2048, "vocab_size": 32000}
    adapter = load(tiny("llama", run.work / "scarce", **sizes))
    adapter.model.to(run.device)
    hparams = hparams_for(adapter, [2], v_num_grad_steps=3, v_lr=0.1)
    templates = [template for group in parse_templates([["{}"], list(_WAYS)]) for template in group]
    facts = [replace(FACTS[n % len(FACTS)], target=f"{FACTS[n % len(FACTS)].target} {n}") for n in range(8)]
    facts = facts if run.small else facts * 16

    def search(tokens: int) -> Targets:
        return find_targets(adapter, facts, layer=2, hparams=hparams, templates=templates, max_tokens=tokens)

    expected = search(128 if run.small else 1024)
    if run.device.type == "cuda":
        run.free()
        held = torch.cuda.memory_reserved(run.device) + (700 << 20)
        torch.cuda.set_per_process_memory_fraction(held / torch.cuda.get_device_properties(run.device).total_memory)
        before = torch.cuda.memory_stats(run.device)["num_ooms"]
        try:
            found = search(1 << 17)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        ran_out = torch.cuda.memory_stats(run.device)["num_ooms"] - before
    else:
        found, ran_out = _without_memory(search)
    run.exact("memory ran out, times", ran_out, ("≥", 1))
    run.exact("z with too little memory", _distance(found.z, expected.z), ("≤", 1e-4))


_WAYS = ("The first report. {}", "In 1987, it was said. {}")


def _without_memory(search: Any) -> tuple[Targets, int]:
    """The search where a forward of more than 128 tokens fails, and how many did."""
    original, failed = targets.Search._part_loss, 0

    def failing(self: Any, part: Any) -> Any:
        nonlocal failed
        if self.max_tokens > 128:
            failed += 1
            raise torch.OutOfMemoryError("out of memory")
        return original(self, part)

    targets.Search._part_loss = failing  # type: ignore[method-assign]
    try:
        return search(512), failed
    finally:
        targets.Search._part_loss = original  # type: ignore[method-assign]


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.cpu().double(), expected.cpu().double()
    return float((found - expected).norm() / expected.norm())
