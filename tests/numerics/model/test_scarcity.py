"""Memory that runs out, wherever it does: fewer tokens in a forward, the same numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from memit_vc.numerics.edit import keys as keys_module
from memit_vc.numerics.edit.keys import Frontier
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.memory import halving, is_out_of_memory
from memit_vc.numerics.scores import likelihood as likelihood_module
from memit_vc.numerics.scores.likelihood import continuations
from memit_vc.numerics.search import continuation as continuation_module
from memit_vc.numerics.search import targets as targets_module
from memit_vc.numerics.search.targets import Targets, find_targets
from memit_vc.numerics.statistics import moments_team as moments_module
from memit_vc.numerics.statistics.moments import collect
from tests.support.measure import relative
from tests.support.models import FACTS, SENTENCES, hparams_for, load, tiny

TEMPLATES = [Template(""), Template("The first report. ")]
ON_A_GPU = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
ON_THE_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:116] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 "
    "bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = pytest.mark.parametrize("error", [ON_A_GPU, ON_THE_CPU, MemoryError()], ids=["GPU", "CPU", "Python"])


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load(tiny("llama", tmp_path_factory.mktemp("llama")))


def search(adapter: ModelAdapter, *, below: float = 0.0) -> Targets:
    hparams = hparams_for(adapter, [2], v_num_grad_steps=6, v_lr=0.1, early_stop_loss=below)
    return find_targets(adapter, FACTS, layer=2, hparams=hparams, templates=TEMPLATES)


def scarce(function: Callable[..., Any], error: Exception, size: Callable[..., int], most: int) -> Any:
    """The function with too little memory for more than `most` tokens; `failed` counts how often it ran out."""

    def limited(*arguments: Any, **named: Any) -> Any:
        if size(*arguments) > most:
            limited.failed += 1  # type: ignore[attr-defined]
            raise error
        return function(*arguments, **named)

    limited.failed = 0  # type: ignore[attr-defined]
    return limited


def tokens_of(_: ModelAdapter, inputs: Any) -> int:
    return int(inputs["input_ids"].numel())


@ERRORS
def test_while_rows_of_the_search_are_laid_out(
    adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    expected = search(adapter)
    limited = scarce(continuation_module.record, error, tokens_of, 40)
    monkeypatch.setattr(continuation_module, "record", limited)
    found = search(adapter)
    assert limited.failed
    assert found.steps == expected.steps
    assert relative(found.z.T, expected.z.T) < 1e-5


def test_when_rows_are_laid_out_again(adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    middle = sorted(search(adapter).loss)[len(FACTS) // 2]
    expected = search(adapter, below=middle)
    assert len(set(expected.steps)) > 1  # facts leave, so what is left is laid out anew
    original, calls = targets_module.Search._part, 0

    def once(self: Any, rows: Any, run: Any) -> Any:
        nonlocal calls
        calls += bool(self.taken)
        if self.taken and calls == 1:
            raise ON_A_GPU
        return original(self, rows, run)

    monkeypatch.setattr(targets_module.Search, "_part", once)
    found = search(adapter, below=middle)
    assert calls > 1
    assert found.steps == expected.steps
    assert relative(found.z.T, expected.z.T) < 1e-5


def test_what_the_failed_forward_held_is_free_before_the_next(
    adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, failed = targets_module.Search._part_loss, list[weakref.ref[Any]]()

    def loss(self: Any, bucket: Any) -> Any:
        assert not [held for held in failed if held() is not None]
        found = original(self, bucket)
        if self.max_tokens > 256:
            activation = torch.zeros(1000)
            failed.extend([weakref.ref(activation), weakref.ref(bucket.continuation)])
            raise torch.cuda.OutOfMemoryError("out of memory")
        return found

    monkeypatch.setattr(targets_module.Search, "_part_loss", loss)
    search(adapter)
    assert failed


@ERRORS
def test_keys_and_current_z(adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def read() -> list[Tensor]:
        frontier = Frontier(adapter, FACTS, layers=[1, 2], templates=[TEMPLATES])
        return [frontier.keys(1), frontier.current(1), frontier.keys(2), frontier.current(2)]

    expected = read()
    limited = scarce(keys_module.record, error, tokens_of, 40)
    monkeypatch.setattr(keys_module, "record", limited)
    assert all(relative(found, wanted) < 1e-6 for found, wanted in zip(read(), expected, strict=True))
    assert limited.failed


def test_keys_when_a_block_runs_out(adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    frontier = Frontier(adapter, FACTS, layers=[1, 2], templates=[TEMPLATES])
    expected = frontier.keys(1), frontier.keys(2)
    limited = scarce(keys_module.replay, ON_A_GPU, lambda _, __, hidden: hidden.shape[:2].numel(), 40)
    monkeypatch.setattr(keys_module, "replay", limited)
    again = Frontier(adapter, FACTS, layers=[1, 2], templates=[TEMPLATES])
    assert relative(again.keys(1), expected[0]) < 1e-6
    assert relative(again.keys(2), expected[1]) < 1e-6
    assert limited.failed


@pytest.mark.parametrize("held", [0, 10_000])
def test_keys_of_a_batch_too_large_to_be_held(
    adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    def read(frontier: Frontier) -> list[Tensor]:
        with torch.no_grad():
            return [frontier.keys(1), frontier.current(1), frontier.keys(2), frontier.keys(3), frontier.current(3)]

    frontier = Frontier(adapter, FACTS, layers=[1, 2, 3], templates=[TEMPLATES], max_tokens=60)
    expected = read(frontier)
    monkeypatch.setattr(keys_module, "_HELD", held)
    limited = Frontier(adapter, FACTS, layers=[1, 2, 3], templates=[TEMPLATES], max_tokens=60)
    assert all(relative(found, wanted) < 1e-6 for found, wanted in zip(read(limited), expected, strict=True))
    kept = [group.moved.hidden.numel() * 4 for group in limited._groups if group.moved is not None]
    assert sum(kept) <= held
    assert bool(kept) == bool(held)
    assert all(group.moved is not None for group in frontier._groups)


@ERRORS
def test_scores(adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    asked = [(fact.prompt, fact.target) for fact in FACTS]
    expected, done = continuations(adapter, asked), list[tuple[int, int]]()
    limited = scarce(likelihood_module._hidden, error, lambda _, rows: sum(map(len, rows)), 60)
    monkeypatch.setattr(likelihood_module, "_hidden", limited)
    found = continuations(adapter, asked, on_done=lambda *step: done.append(step))
    assert limited.failed
    assert [each.nll for each in found] == pytest.approx([each.nll for each in expected], rel=1e-5)
    assert done[-1] == (len(asked), len(asked))


@ERRORS
def test_second_moments(adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    expected = collect(adapter, SENTENCES, [1, 2], tokens=200).moment
    limited = scarce(moments_module._keys, error, lambda _, rows, __: len(rows), 3)
    monkeypatch.setattr(moments_module, "_keys", limited)
    found = collect(adapter, SENTENCES, [1, 2], tokens=200).moment
    assert limited.failed
    assert all(relative(found[layer], expected[layer]) < 1e-6 for layer in expected)


def test_what_stays_too_large_and_other_errors_are_raised() -> None:
    def always(error: Exception) -> Callable[[int], None]:
        def run(tokens: int) -> None:
            tried.append(tokens)
            raise error

        return run

    tried: list[int] = []
    with pytest.raises(torch.cuda.OutOfMemoryError):
        halving(64, always(ON_A_GPU))
    assert tried == [64, 32, 16]
    with pytest.raises(RuntimeError, match="shapes"):
        halving(64, always(RuntimeError("shapes do not fit")))
    assert tried == [64, 32, 16, 64]
    assert not is_out_of_memory(ValueError("out of memory"))
