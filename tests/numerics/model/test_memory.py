"""How many tokens a forward of the search may hold."""

from __future__ import annotations

import pytest

from memit_vc.numerics.model import memory
from memit_vc.numerics.model.adapter import ModelAdapter
from tests.support.models import load, tiny


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load(tiny("llama", tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("free", [0, 10**6, 10**7, 10**8, 10**12, None])
def test_tokens_follow_free_memory(adapter: ModelAdapter, free: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_ram", lambda: free)
    tokens = memory.search_tokens(adapter, layer=2)
    assert tokens in (48, 96, 192, 384)
    if free is None or free >= 10**12:
        assert tokens == 384
    if free == 0:
        assert tokens == 48


def test_more_memory_never_means_fewer_tokens(adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for free in range(0, 10**9, 10**7):
        monkeypatch.setattr(memory, "free_ram", lambda free=free: free)
        found.append(memory.search_tokens(adapter, layer=2))
    assert found == sorted(found)
    assert len(set(found)) > 2


def test_this_machine_says_what_is_free(adapter: ModelAdapter) -> None:
    free = memory.free_memory(adapter.blocks[0])
    assert free is None or free > 0
