"""One pass for all layers against a naive float64 sum, and a pass that is killed and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from memit_vc.errors import EngineError, UsageError
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.statistics.gram import Gram
from memit_vc.numerics.statistics.moments import Moments, collect
from memit_vc.numerics.statistics.token_batches import token_batches
from tests.support.models import SENTENCES, Kind, load, tiny

TEXTS = [" ".join(SENTENCES[: 1 + i % 5]) if i % 3 else SENTENCES[i % len(SENTENCES)] for i in range(40)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelAdapter]:
    root = tmp_path_factory.mktemp("models")
    kinds: dict[str, Kind] = {"gpt2": "byte_bpe", "llama": "metaspace", "opt": "wordpiece"}
    return {name: load(tiny(name, root / name, tokenizer=kind)) for name, kind in kinds.items()}


def naive(adapter: ModelAdapter, texts: list[str], layer: int, *, max_length: int = 512) -> tuple[Tensor, int]:
    """Text by text through the whole model, no padding, float64."""
    kept: list[Tensor] = []
    hook = adapter.projection(layer).register_forward_pre_hook(lambda _, args: kept.append(args[0].flatten(0, -2)))
    positions = min(max_length, 256)
    for text in texts:
        encoded = adapter.tokenizer(text, return_special_tokens_mask=True)
        ids = list(encoded["input_ids"])
        while encoded["special_tokens_mask"][len(ids) - 1]:
            ids.pop()
        with torch.no_grad():
            adapter.model(input_ids=torch.tensor([ids[:positions]]))
    hook.remove()
    keys = torch.cat(kept).double()
    return keys.T @ keys / len(keys), len(keys)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_one_pass_equals_the_naive_sum_of_every_layer(models: dict[str, ModelAdapter], name: str) -> None:
    adapter = models[name]
    found = collect(adapter, TEXTS, [1, 3, 4], tokens=10**9, batch_tokens=300)
    for layer in (1, 3, 4):
        expected, count = naive(adapter, TEXTS, layer)
        assert found.count == count
        assert relative(found.moment[layer], expected) < 1e-6
        assert found.moment[layer].dtype == torch.float32
        assert torch.equal(found.moment[layer], found.moment[layer].T)


def test_one_pass_equals_a_pass_per_layer(models: dict[str, ModelAdapter]) -> None:
    adapter = models["llama"]
    together = collect(adapter, TEXTS, [0, 2, 5], tokens=2000)
    for layer in (0, 2, 5):
        alone = collect(adapter, TEXTS, [layer], tokens=2000)
        assert torch.equal(alone.moment[layer], together.moment[layer])


@pytest.mark.parametrize("batch_tokens", [1, 64, 1000, 10**6])
def test_padding_and_buckets_do_not_matter(models: dict[str, ModelAdapter], batch_tokens: int) -> None:
    adapter = models["gpt2"]
    expected, count = naive(adapter, TEXTS, 2)
    found = collect(adapter, TEXTS, [2], tokens=10**9, batch_tokens=batch_tokens)
    assert found.count == count
    assert relative(found.moment[2], expected) < 1e-6


def test_long_texts_are_cut(models: dict[str, ModelAdapter]) -> None:
    adapter = models["gpt2"]
    texts = [" ".join(SENTENCES), SENTENCES[0]]
    for max_length in (10, 10_000):  # the second is more than the model has positions for
        expected, count = naive(adapter, texts, 2, max_length=max_length)
        found = collect(adapter, texts, [2], tokens=10**9, max_length=max_length)
        assert found.count == count
        assert relative(found.moment[2], expected) < 1e-6


def test_no_more_tokens_than_asked_for(models: dict[str, ModelAdapter]) -> None:
    found = collect(models["gpt2"], TEXTS, [1], tokens=777)
    assert (found.count, found.tokens) == (777, 777)
    short = collect(models["gpt2"], TEXTS[:2], [1], tokens=777)
    assert 0 < short.count < short.tokens == 777


def test_no_text_is_taken_that_is_not_needed(models: dict[str, ModelAdapter]) -> None:
    """The model may have to write each text, which takes far longer than to read it."""
    tokenizer, taken = models["gpt2"].tokenizer, list[int]()

    def texts() -> Iterator[str]:
        for number in range(1000):
            taken.append(number)
            yield TEXTS[1]

    most = min(20, len(tokenizer(TEXTS[1])["input_ids"]))
    batches = list(token_batches(tokenizer, texts(), tokens=99 * most + 1, max_length=most, batch_tokens=64))
    rows = [row for batch in batches for row in batch]
    assert len(taken) == len(rows) == 100
    assert sum(map(len, rows)) == 99 * most + 1


def test_batches_hold_every_row_once(models: dict[str, ModelAdapter]) -> None:
    tokenizer = models["gpt2"].tokenizer
    batches = list(token_batches(tokenizer, [*TEXTS, "a", ""], tokens=10**9, max_length=50, batch_tokens=128))
    rows = sorted(row for batch in batches for row in batch)
    assert rows == sorted(tokenizer(text)["input_ids"][:50] for text in TEXTS)
    assert all(len(batch) * max(map(len, batch)) <= 128 + max(map(len, batch)) for batch in batches)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("killed_after", [1, 3, 6])
def test_a_killed_pass_goes_on_to_the_same_bits(
    models: dict[str, ModelAdapter], tmp_path: Path, killed_after: int
) -> None:
    adapter, path = models["llama"], tmp_path / "partial.safetensors"
    calls: list[int] = []

    def dies(stage: str, done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == killed_after + 2:
            raise Killed

    def passed(progress: object = None, resume: Path | None = None) -> Moments:
        seen = progress or (lambda stage, done, total: None)
        return collect(
            adapter, TEXTS, [1, 2], tokens=3000, batch_tokens=256, resume=resume, save_every=0.0, progress=seen
        )

    with pytest.raises(Killed):
        passed(dies, path)
    assert path.exists()
    restarted: list[int] = []
    resumed = passed(lambda stage, done, total: restarted.append(done), path)
    assert restarted[0] > 0
    whole = passed()
    assert resumed.count == whole.count
    assert all(torch.equal(resumed.moment[layer], whole.moment[layer]) for layer in (1, 2))


def test_a_partial_file_of_other_texts_or_none_is_ignored(models: dict[str, ModelAdapter], tmp_path: Path) -> None:
    adapter, path = models["gpt2"], tmp_path / "partial.safetensors"
    collect(adapter, TEXTS[5:], [1], tokens=2000, batch_tokens=256, resume=path, save_every=0.0)
    assert path.exists()
    whole = collect(adapter, TEXTS, [1], tokens=2000, batch_tokens=256)
    for damage in (False, True):
        if damage:
            path.write_bytes(b"torn")
        found = collect(adapter, TEXTS, [1], tokens=2000, batch_tokens=256, resume=path)
        assert torch.equal(found.moment[1], whole.moment[1])
    with pytest.raises(TypeError, match="read again"):
        collect(adapter, iter(TEXTS), [1], tokens=10, resume=path)


def test_wrong_input_is_refused(models: dict[str, ModelAdapter]) -> None:
    with pytest.raises(UsageError, match="no text"):
        collect(models["gpt2"], ["", "a"], [1], tokens=10)
    with pytest.raises(UsageError, match="at least one layer"):
        collect(models["gpt2"], TEXTS, [], tokens=10)


def test_activations_that_are_not_finite_are_named(tmp_path: Path) -> None:
    adapter = load(tiny("gpt2", tmp_path / "m"))
    with torch.no_grad():
        adapter.model.transformer.h[2].mlp.c_fc.bias[3] = float("inf")
    collect(adapter, TEXTS, [1], tokens=100)
    with pytest.raises(EngineError, match="layer 2"):
        collect(adapter, TEXTS, [1, 2], tokens=100)
    assert not adapter.projection(2)._forward_pre_hooks


def test_the_model_is_left_as_it_was(models: dict[str, ModelAdapter]) -> None:
    adapter = models["llama"]
    adapter.model.train()
    before = {name: p.clone() for name, p in adapter.model.named_parameters()}
    collect(adapter, TEXTS, [1], tokens=100)
    assert adapter.model.training
    adapter.model.eval()
    assert all(torch.equal(p, before[name]) for name, p in adapter.model.named_parameters())
    assert not any(m._forward_pre_hooks for m in adapter.model.modules())


def test_bfloat16_keys_are_summed_in_float32(tmp_path: Path) -> None:
    adapter = load(tiny("llama", tmp_path / "m", dtype="bfloat16"))
    found = collect(adapter, TEXTS[:1], [2], tokens=10**6)
    expected, _ = naive(adapter, TEXTS[:1], 2)
    assert relative(found.moment[2], expected) < 1e-6


@pytest.mark.parametrize(("size", "tokens"), [(1, 5), (127, 10), (129, 5000), (1100, 3000)])
def test_gram_equals_the_naive_product(size: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(size)
    keys = torch.randn(tokens, size, generator=generator)
    keys[:, 0] *= 300.0  # real keys have outliers
    gram = Gram.zeros(size)
    for part in keys.split(999):
        assert gram.add(part)
    expected = keys.double().T @ keys.double() / tokens
    scale = expected.diagonal().sqrt()
    found = gram.mean(tokens)
    assert float(((found - expected).abs() / torch.outer(scale, scale)).max()) < 1e-6
    assert torch.equal(found, found.T)
    assert not gram.add(torch.full((1, size), float("nan")))


def test_a_sum_does_not_depend_on_the_order_of_its_parts() -> None:
    """Whoever adds them, and when: what several processes rely on."""
    generator = torch.Generator().manual_seed(1)
    keys = torch.randn(6000, 130, generator=generator) * torch.logspace(-4, 3, 130)
    keys[:, 5] = 0.0
    keys[300:, 6] *= 1000.0  # grows far beyond what the first part shows
    parts = keys.split(300)
    whole = Gram.zeros(130)
    for part in parts:
        assert whole.add(part)
    halves = [Gram.zeros(130, device="cpu"), Gram.zeros(130)]
    for half in halves:
        half.exponents = whole.exponents
    for index in torch.randperm(len(parts), generator=generator).tolist():
        halves[index % 3 == 0].add(parts[index])
    for place, block in halves[0].blocks.items():
        block.add_(halves[1].blocks[place])
        assert torch.equal(block, whole.blocks[place])
    assert torch.equal(halves[0].mean(6000), whole.mean(6000))
    resumed = Gram.zeros(130)
    assert not resumed.restore({name: tensor for name, tensor in whole.tensors().items() if name != "exponents"})
    assert resumed.restore(whole.tensors())
    assert torch.equal(resumed.mean(6000), whole.mean(6000))


def test_inputs_that_are_dead_at_first_are_summed_as_well() -> None:
    keys = torch.randn(400, 8, generator=torch.Generator().manual_seed(2))
    keys[:200, 3] = 0.0
    gram = Gram.zeros(8)
    assert not gram.add(torch.full((2, 8), float("inf")))
    assert all(gram.add(part) for part in (torch.zeros(5, 8), keys[:200], keys[200:]))
    assert relative(gram.mean(400), (keys.double().T @ keys.double() / 400)) < 1e-6
