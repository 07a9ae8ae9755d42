"""A random bfloat16 model of Llama-3-8B's shape: the search and where its time goes, statistics, solve, weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import large, reference
from benchmarks.facts import some_facts
from benchmarks.gpu_run import Run
from benchmarks.places import Options
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.solve import adjusted_keys
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.search.targets import find_targets
from memit_vc.numerics.statistics.factors import factorise
from memit_vc.numerics.statistics.moments import collect
from memit_vc.objects import Fact
from tests.support.models import SENTENCES, tiny

__all__ = ["search", "solve", "statistics", "thousand"]

TEXTS = [["{}"], [f"{' '.join(text.split()[:10])}. {{}}" for text in SENTENCES[:5]]]
_PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12, "L40": 181e12, "4090": 165e12}
"""Dense bfloat16 operations per second, by a part of the card's name, as its maker states them."""
_GIGA = 1e9


@dataclass(frozen=True)
class _Large:
    adapter: ModelAdapter
    hparams: MEMITHyperParams
    bytes: int


@cache
def _large(work: str, device: str, small: bool) -> _Large:
    """The model, made once: later stages use it too."""
    words = tiny("llama", Path(work) / "words")
    adapter = large.random_model(Options(model=words, quick=small, device=device))
    hparams = MEMITHyperParams.from_hparams("llama-3-8b").replace(early_stop="loss", early_stop_loss=0.0)
    if small:
        hparams = hparams.replace(v_num_grad_steps=2, v_loss_layer=9)
    return _Large(adapter, hparams, sum(p.numel() * p.element_size() for p in adapter.model.parameters()))


def _of(run: Run) -> _Large:
    return _large(str(run.work), str(run.device), run.small)


def _facts(count: int) -> list[Fact]:
    """Facts on different questions: some again with a number behind the subject."""
    known = some_facts(50)
    return [
        replace(
            fact,
            subject=f"{fact.subject} {number}",
            prompt=fact.prompt.replace(fact.subject, f"{fact.subject} {number}"),
        )
        for number, fact in ((n, known[n % len(known)]) for n in range(count))
    ]


def search(run: Run) -> None:
    """100 facts of ours against 3 of the reference's, then one chunk under the profiler."""
    here = _of(run)
    adapter, hparams = here.adapter, here.hparams
    facts = _facts(3 if run.small else 100)
    large.ours(adapter, facts[:2], hparams.replace(v_num_grad_steps=2), TEXTS)  # what only a first call does
    _reset_peak(run)
    seconds = large.ours(adapter, facts, hparams, TEXTS)
    run.speed(f"search, {len(facts)} facts", len(facts) / seconds, "facts/s")
    _peak(run, here, "search")
    slow = large.theirs(adapter, facts[:3], hparams, TEXTS)
    run.speed("search, the reference's way, 3 facts", 3 / slow, "facts/s")
    run.speed("search, times as fast as the reference", slow / 3 / (seconds / len(facts)), "×", ("≥", 30))
    run.exact("a large weight on the device: the CPU's bytes", float(large.same_bytes(adapter)), ("≥", 1))
    _where_time_goes(run, here, facts[:32])


def _where_time_goes(run: Run, here: _Large, facts: Sequence[Fact]) -> None:
    """Arithmetic of a step against the card's; kernels against the wall; calls that wait. One chunk."""
    templates = [template for group in parse_templates(TEXTS) for template in group]

    def few(steps: int) -> None:
        find_targets(
            here.adapter,
            facts,
            layer=here.hparams.layers[-1],
            hparams=here.hparams.replace(v_num_grad_steps=steps),
            templates=templates,
            max_tokens=16384,
        )

    _, short = run.timed(lambda: few(2))
    _, long = run.timed(lambda: few(8))
    step = (long - short) / 6
    flops = []
    for steps in (2, 3):
        with FlopCounterMode(display=False) as counter:
            few(steps)
        flops.append(counter.get_total_flops())
    rate = (flops[1] - flops[0]) / max(step, 1e-9)
    run.speed("search, a step of a chunk", 1000 * step, "ms")
    run.speed("search, arithmetic", rate / 1e12, "TFLOP/s")
    if run.device.type == "cuda":
        name = torch.cuda.get_device_name(run.device)
        peak = next((rate for part, rate in _PEAKS.items() if part in name), None)
        if peak is not None:
            run.speed(f"search, of the bf16 peak of {name}", 100 * rate / peak, "%", ("≥", 40))
    _profiled(run, few)


def _profiled(run: Run, few: Callable[[int], None]) -> None:
    """Kernels, what is between them, and calls that wait."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if run.device.type == "cuda" else [])
    with profile(activities=activities) as profiled:
        _, wall = run.timed(lambda: few(4))
    events = profiled.key_averages()
    kernels = sum(e.self_device_time_total for e in events if e.device_type == DeviceType.CUDA) / 1e6
    waits = sum(
        e.count for e in events if e.key in ("aten::item", "aten::_local_scalar_dense", "cudaStreamSynchronize")
    )
    run.speed("profile of 4 steps: wall", wall, "s")
    run.speed("profile of 4 steps: kernels", kernels, "s")
    run.speed("profile of 4 steps: gaps between kernels", 100 * max(0.0, 1 - kernels / wall), "%")
    run.speed("profile of 4 steps: calls that wait", waits, "")
    table = events.table(sort_by="self_device_time_total" if kernels else "self_cpu_time_total", row_limit=15)
    print(table if not run.small else table.splitlines()[0])


def thousand(run: Run) -> None:
    """As `search`, with 1,000 facts, where 100 say that there is time for it."""
    here, count = _of(run), 4 if run.small else 1000
    _, hundred = run.timed(lambda: large.ours(here.adapter, _facts(count // 10 or 1), here.hparams, TEXTS))
    if not run.small and 10 * hundred > run.left:
        run.speed("search, 1,000 facts: left out, as 100 take", hundred, "s")
        return
    seconds = large.ours(here.adapter, _facts(count), here.hparams, TEXTS)
    run.speed(f"search, {count} facts", count / seconds, "facts/s")


def statistics(run: Run) -> None:
    """Second moments of all edited layers in one pass."""
    here, tokens = _of(run), 600 if run.small else 143_360
    text = " ".join(SENTENCES)
    texts = [text[start:] + text[:start] for start in range(40 if run.small else 2000)]
    _reset_peak(run)
    found, seconds = run.timed(lambda: collect(here.adapter, texts, here.hparams.layers, tokens=tokens))
    run.exact("statistics, tokens", found.count, ("≥", tokens))
    run.speed(f"statistics of {len(here.hparams.layers)} layers", seconds, "s", ("≤", 60))
    _peak(run, here, "statistics")


def solve(run: Run) -> None:
    """λC factored and solved at Llama-3-8B's d_in: on the CPU, as a commit factors, and on the device."""
    size, facts = (256, 10) if run.small else (14336, 100)
    generator = torch.Generator(run.device).manual_seed(0)
    half = torch.randn(size, size + 64, generator=generator, device=run.device)
    moment = (half @ half.T / size).float()
    moment = (moment + moment.T) / 2
    keys = torch.randn(size, facts, generator=generator, device=run.device, dtype=torch.float64)
    del half
    factor, cold = run.timed(lambda: factorise(moment, 15000.0))
    first, solving = run.timed(lambda: adjusted_keys(factor, keys))
    run.speed(f"solve at {size}: factor and solve on the device, cold", cold + solving, "s", ("≤", 3))
    _, warm = run.timed(lambda: adjusted_keys(factor, keys))
    run.speed(f"solve at {size}: {facts} facts on the device, warm", warm, "s", ("≤", 0.2))
    on_cpu, seconds = run.timed(lambda: factorise(moment.cpu(), 15000.0))
    run.speed(f"solve at {size}: factored on the CPU", seconds, "s")
    _, moving = run.timed(lambda: on_cpu.to(run.device))
    run.speed(f"solve at {size}: the factor to the device", moving, "s")
    expected = reference.solve(moment.cpu(), 15000.0, keys.cpu()) if run.small else adjusted_keys(on_cpu, keys.cpu())
    run.exact("solve: device and CPU apart", float((first.cpu() - expected).norm() / expected.norm()), ("≤", 1e-8))


def _reset_peak(run: Run) -> None:
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)


def _peak(run: Run, here: _Large, what: str) -> None:
    if run.device.type == "cuda":
        above = torch.cuda.max_memory_allocated(run.device) - here.bytes
        run.speed(f"{what}, peak of memory above the weights", above / _GIGA, "GB", ("≤", 12))
