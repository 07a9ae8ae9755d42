"""Statistics on disk: named by their inputs, checked when read, computed again when damaged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from memit_vc.errors import EngineError, StorageError
from memit_vc.numerics.statistics.cache import KeyedWeight, StatisticsCache, StatisticsKey
from memit_vc.numerics.statistics.factors import Factor, factorise
from memit_vc.numerics.statistics.moments import Moments, collect
from memit_vc.numerics.statistics.tensorfile import read_tensors
from tests.support.models import SENTENCES, load, tiny

LAYERS = (2, 3)


def key(**changes: object) -> StatisticsKey:
    values: dict[str, object] = {
        "base": "b" * 64,
        "weights": tuple(KeyedWeight(layer=layer, name=f"h.{layer}.weight", d_in=6) for layer in LAYERS),
        "tokenizer": "t",
        "corpus": {"kind": "file", "name": "a.txt", "sha256": "0", "field": None},
        "tokens": 100,
        "max_length": 512,
        "dtype": "float32",
    }
    return StatisticsKey(**{**values, **changes})  # type: ignore[arg-type]


def moments(seed: int = 0) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    keys = [torch.randn(6, 50, generator=generator) for _ in LAYERS]
    return Moments({layer: k @ k.T / 50 for layer, k in zip(LAYERS, keys, strict=True)}, 50, 100)


def test_round_trip(tmp_path: Path) -> None:
    cache = StatisticsCache(tmp_path / "statistics")
    assert not cache.ready(key())
    cache.partial(key()).parent.mkdir(parents=True)
    cache.partial(key()).write_bytes(b"sums")
    stored = moments()
    cache.store(key(), stored)
    assert cache.ready(key())
    for layer in LAYERS:
        tensors, metadata = read_tensors(cache.directory(key()) / f"layer-{layer}.safetensors")
        assert metadata["count"] == 50
        assert torch.equal(tensors["moment"], stored.moment[layer])
    assert sorted(p.name for p in cache.directory(key()).iterdir()) == [
        "key.json",
        "layer-2.safetensors",
        "layer-3.safetensors",
    ]
    record = json.loads((cache.directory(key()) / "key.json").read_bytes())
    assert StatisticsKey.from_json(record) == key()
    assert StatisticsKey.from_json(record).id == key().id


def test_the_id_depends_on_every_input_but_the_file_name() -> None:
    corpus = dict(key().corpus)
    other = [
        key(base="c"),
        key(weights=key().weights[:1]),
        key(tokenizer="u"),
        key(corpus={**corpus, "sha256": "1"}),
        key(corpus={**corpus, "field": "text"}),
        key(tokens=101),
        key(max_length=256),
        key(dtype="bfloat16"),
        key(format=key().format + 1),
        key(algorithm=key().algorithm + 1),
    ]
    assert len({k.id for k in other} | {key().id}) == len(other) + 1
    assert key(corpus={**corpus, "name": "b.txt"}).id == key().id


def test_factors_are_kept_in_memory_and_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = StatisticsCache(tmp_path)
    cache.store(key(), moments())
    first = cache.factor(key(), 2, 500)
    assert torch.equal(first.lower, factorise(moments().moment[2], 500.0).lower)
    assert cache.factor(key(), 2, 500.0) is first
    assert cache.factor(key().id, 2, 500.0) is first
    path = cache.directory(key()) / "factor-2-500.0.safetensors"
    assert path.exists()
    monkeypatch.setattr("memit_vc.numerics.statistics.cache.factorise", None)
    assert torch.equal(StatisticsCache(tmp_path).factor(key().id, 2, 500.0).lower, first.lower)


def test_large_factors_are_read_when_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = StatisticsCache(tmp_path)
    cache.store(key(), moments())
    monkeypatch.setattr("memit_vc.numerics.statistics.cache._HELD", 0)
    expected = factorise(moments().moment[2], 500.0)
    assert cache.ridge(key(), 2, 500.0) == (expected.ridge, 0)
    monkeypatch.setattr("memit_vc.numerics.statistics.cache.factorise", None)
    first = cache.factor(key(), 2, 500.0)
    assert torch.equal(first.lower, expected.lower)
    assert cache.factor(key(), 2, 500.0) is not first
    monkeypatch.setattr(Factor, "load", None)
    assert cache.ridge(key(), 2, 500.0) == (expected.ridge, 0)


def test_a_factor_that_cannot_be_saved_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("read-only")

    cache = StatisticsCache(tmp_path)
    cache.store(key(), moments())
    monkeypatch.setattr("memit_vc.numerics.statistics.cache._HELD", 0)
    monkeypatch.setattr(Factor, "save", refuse)
    assert cache.factor(key(), 2, 500.0) is cache.factor(key(), 2, 500.0)


@pytest.mark.parametrize("content", [b"", b"torn", None])
def test_a_damaged_factor_is_built_again(tmp_path: Path, content: bytes | None) -> None:
    cache = StatisticsCache(tmp_path)
    cache.store(key(), moments())
    path = cache.directory(key()) / "factor-3-20.0.safetensors"
    if content is None:
        Factor(torch.eye(4, dtype=torch.float64)).save(path)
    else:
        path.write_bytes(content)
    expected = factorise(moments().moment[3], 20.0)
    assert torch.equal(cache.factor(key(), 3, 20.0).lower, expected.lower)
    assert torch.equal(Factor.load(path).lower, expected.lower)


def test_new_moments_drop_old_factors(tmp_path: Path) -> None:
    cache = StatisticsCache(tmp_path)
    cache.store(key(), moments(0))
    cache.factor(key(), 2, 500.0)
    cache.store(key(), moments(1))
    assert torch.equal(cache.factor(key(), 2, 500.0).lower, factorise(moments(1).moment[2], 500.0).lower)


def test_damaged_moments_count_as_absent(tmp_path: Path) -> None:
    cache = StatisticsCache(tmp_path)
    cache.store(key(), moments())
    path = cache.directory(key()) / "layer-3.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert cache.ready(key())
    with pytest.raises(EngineError, match="layer 3"):
        cache.factor(key(), 3, 1.0)
    assert not cache.ready(key())
    path.write_bytes(whole[:-40])
    assert not cache.ready(key())
    with pytest.raises(EngineError, match="layer 3"):
        cache.factor(key(), 3, 1.0)
    path.write_bytes(whole)
    assert cache.ready(key())
    wider = key(weights=tuple(dataclasses.replace(w, d_in=7) for w in key().weights))
    cache.directory(wider).mkdir()
    (cache.directory(wider) / "layer-2.safetensors").write_bytes(whole)
    assert not cache.ready(wider)
    with pytest.raises(EngineError, match="layer 2"):
        cache.factor(wider, 2, 1.0)


def test_moments_that_do_not_fit_are_not_stored(tmp_path: Path) -> None:
    cache = StatisticsCache(tmp_path / "statistics")
    with pytest.raises(EngineError, match=r"layer 2 \(h\.2\.weight\)"):
        cache.store(key(), Moments({2: torch.eye(5), 3: torch.eye(6)}, 5, 5))
    with pytest.raises(EngineError, match=r"layer 3.*nothing"):
        cache.store(key(), Moments({2: torch.eye(6)}, 5, 5))
    with pytest.raises(EngineError, match="not finite"):
        cache.store(key(), Moments({2: torch.eye(6), 3: torch.eye(6) * float("nan")}, 5, 5))
    assert not (tmp_path / "statistics").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        StatisticsCache(tmp_path / "file").store(key(), moments())
    assert str(tmp_path / "file") in caught.value.message


def test_the_key_of_a_loaded_model(tmp_path: Path) -> None:
    adapter = load(tiny("gpt2", tmp_path / "m"))
    names = {layer: adapter.parameter_name(layer) for layer in LAYERS}

    def made() -> StatisticsKey:
        return StatisticsKey.of(adapter, base="b", names=names, corpus={"kind": "test"}, tokens=500)

    before = made()
    assert before.layers == LAYERS
    assert [w.d_in for w in before.weights] == [128, 128]
    assert before.dtype == "float32"
    found = collect(adapter, SENTENCES, LAYERS, tokens=500)
    adapter.tokenizer(list(SENTENCES), padding=True, truncation=True, max_length=8)
    assert made().id == before.id
    cache = StatisticsCache(tmp_path / "statistics")
    cache.store(before, found)
    assert cache.factor(before.id, 2, 20.0).size == 128
