"""A loaded base is the one that the repository describes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from memit_vc import from_pretrained
from memit_vc.errors import BaseChangedError, IntegrityError
from memit_vc.porcelain.editing.models import load_model
from memit_vc.repository import Repository
from tests.support.opened import Opened


def test_a_weight_that_is_recorded_the_other_way_round(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = opened("llama")
    load_model(repository)
    first, *others = repository.fact_weights()
    turned = replace(first, orientation="in_out", d_out=first.d_in, d_in=first.d_out)
    monkeypatch.setattr(Repository, "fact_weights", lambda _: (turned, *others))
    with pytest.raises(IntegrityError, match="another kind of matrix"):
        load_model(repository)


@pytest.mark.parametrize("load", [load_model, from_pretrained])
def test_a_bit_that_changed_under_the_same_stamps(opened: Opened, load: Callable[[Repository], object]) -> None:
    """Size and date say nothing, and transformers checks nothing: each loading hashes what it loads."""
    repository = opened("llama")
    load(repository)
    shard = Path(repository.config.base) / "model.safetensors"
    before, stat = shard.read_bytes(), shard.stat()

    def write(data: bytes) -> None:
        with shard.open("r+b") as handle:
            handle.write(data)
        os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    write(before[:-1] + bytes([before[-1] ^ 1]))
    assert shard.stat().st_mtime_ns == stat.st_mtime_ns
    with pytest.raises(BaseChangedError, match=r"in model\.safetensors has other bytes"):
        load(repository)
    write(before)
    load(repository)
