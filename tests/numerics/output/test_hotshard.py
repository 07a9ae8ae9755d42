"""The hot shard goes through many small blocks whose memory is used again, while slow threads still hash them."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from memit_vc import concurrency
from memit_vc.numerics.exact import blockwise
from memit_vc.numerics.output import hotshard
from memit_vc.store.shards import HOT_FILE
from tests.numerics.output.test_checkout import Case
from tests.support.cases import bits


@pytest.mark.parametrize("slow", [None, "hash", "writer"])
def test_blocks_share_memory_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str | None
) -> None:
    case = Case(tmp_path, "gpt2", "float32", "5GB")
    monkeypatch.setattr("memit_vc.numerics.exact.materialise._BLOCK", 1)
    monkeypatch.setattr("memit_vc.numerics.exact.materialise._ROWS", 3)
    made: list[int] = []
    empty = hotshard.np.empty

    def counted(size: int, dtype: Any) -> Any:
        made.append(size)
        return empty(size, dtype)

    monkeypatch.setattr(hotshard.np, "empty", counted)
    if slow == "hash":
        monkeypatch.setattr(hotshard.hashlib, "sha256", _SlowHash)
    hashes: dict[str, str] = {}
    parts = []
    for part in hotshard.hot_shard(
        case.base / HOT_FILE, case.weights, case.terms(7), case.hot, hashes, lambda *_: None
    ):
        if slow == "writer":
            time.sleep(0.002)
        parts.append(bytes(part))
    assert len(parts) > 3 * len(made)
    path = tmp_path / "shard.safetensors"
    path.write_bytes(b"".join(parts))
    from safetensors.torch import load_file

    found = load_file(path)
    for weight in case.weights:
        expected = case.expected(weight, 7)
        assert bits(found[weight.name]) == bits(expected)
        content = found[weight.name].contiguous().view(torch.uint8).numpy().tobytes()
        assert hashes[weight.name] == _REAL(content).hexdigest()


_REAL = hashlib.sha256


class _SlowHash:
    """SHA-256 that takes its time."""

    def __init__(self) -> None:
        self._real = _REAL()

    def update(self, data: Any) -> None:
        time.sleep(0.002)
        self._real.update(data)

    def hexdigest(self) -> str:
        return self._real.hexdigest()


def test_every_thread_of_the_caller_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's one thread is its own affair, also for threads that use torch for the first time meanwhile."""
    case = Case(tmp_path, "gpt2", "float32", "5GB")
    monkeypatch.setattr("memit_vc.numerics.exact.materialise._ROWS", 3)
    monkeypatch.setattr(blockwise.os, "cpu_count", lambda: 2)
    asked: list[int] = []
    pool = concurrency.ThreadPoolExecutor

    def counted(max_workers: int, **rest: Any) -> Any:
        if rest["initializer"] is not None:  # the one that looks at terms ahead is no worker of torch
            asked.append(max_workers)
        return pool(max_workers, **rest)

    monkeypatch.setattr(concurrency, "ThreadPoolExecutor", counted)

    def write() -> int:
        for _ in hotshard.hot_shard(case.base / HOT_FILE, case.weights, case.terms(7), case.hot, {}, lambda *_: None):
            pass
        return torch.get_num_threads()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for _ in range(3):
            with pool(1) as fresh:
                assert fresh.submit(write).result() == 2
    finally:
        torch.set_num_threads(before)
    assert asked
    assert set(asked) == {2}
