"""The base from the Hub: each fault on its way is got over or told, and damaged bytes never become a base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from memit_vc.errors import IntegrityError, MemitVCError, RemoteError
from memit_vc.porcelain.base import fetch_base
from memit_vc.porcelain.setup import init
from memit_vc.porcelain.sharing.clone import clone
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.sharing.remotes import add_remote
from memit_vc.remote import hub_retry
from memit_vc.repository import Repository
from tests.support.histories import record
from tests.support.hub.faults import Fault
from tests.support.hub.loopback import Loopback
from tests.support.models import FACTS, hparams_for, load, tiny

NAME = "ada/base"
SHARD, REVISION = "GET /ada/base/[0-9a-f]{64}", "GET /api/models/ada/base/revision"
AT_ONCE = {"Retry-After": "0"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("llama", tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def base(client: Loopback, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    """The Hub with a model on it, and an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_retry, "wait_unasked", lambda _: 0.05)
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    more = {"consolidated.safetensors": b"\0" * 100, "original/model.safetensors": b"\0" * 100}
    client.add(NAME, {**files, **more})
    client.forget()
    return client


def same(place: Path, model: Path) -> None:
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {
        path.name: path.read_bytes() for path in model.iterdir()
    }


@pytest.mark.parametrize(
    ("route", "kind", "headers"),
    [
        (REVISION, "status", AT_ONCE),
        (REVISION, "reset", {}),
        ("GET /api/models/ada/base/tree", "reset", {}),
        (SHARD, "reset", {}),
        (SHARD, "status", AT_ONCE),
        (SHARD, "flip", {}),
    ],
)
def test_what_passes_is_got_over(base: Loopback, model: Path, route: str, kind: Any, headers: dict[str, str]) -> None:
    fault = base.faults.add(Fault(route, kind, headers=headers))
    place, revision = fetch_base(NAME, None)
    assert fault.struck == 1
    assert revision == base.repos[NAME].store.sha("main")
    same(place, model)


def test_a_limit_of_the_hub_is_waited_for(base: Loopback, model: Path) -> None:
    base.faults.add(Fault(REVISION, "status", 429, headers={"RateLimit": '"api";r=0;t=1'}))
    same(fetch_base(NAME, None)[0], model)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(REVISION, "status", 503, headers=AT_ONCE, times=99), "HTTP 503"),
        (Fault(SHARD, "reset", times=99), "the connection failed"),
        (Fault(SHARD, "status", 403, times=99), "may not read"),
        (Fault(REVISION, "body", body=b"<html>", times=99), "cannot be understood"),
        (Fault(REVISION, "status", 500, headers=AT_ONCE, times=99, body=b'{"error":"at ?token=hf_ada1"}'), "HTTP 500"),
    ],
)
def test_what_does_not_pass_is_told(
    base: Loopback, model: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, words: str
) -> None:
    monkeypatch.setattr(hub_retry, "ATTEMPTS", 2)
    base.faults.add(fault)
    with pytest.raises(RemoteError, match=words) as caught:
        fetch_base(NAME, None)
    assert caught.value.hint
    assert "hf_ada" not in caught.value.message
    base.faults.clear()
    same(fetch_base(NAME, None)[0], model)


def test_offline_is_said_at_once(base: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_retry, "_wait", lambda _: pytest.fail("nothing to wait for"))
    with pytest.raises(RemoteError, match="offline mode"):
        fetch_base(NAME, None)


def test_a_model_that_is_not_there(base: Loopback) -> None:
    with pytest.raises(RemoteError, match="is not a directory here") as caught:
        fetch_base("ada/nothing", None)
    assert "hf auth login" in str(caught.value.hint)


def test_bytes_that_stay_damaged_are_no_base(base: Loopback, model: Path, tmp_path: Path) -> None:
    """Neither in a repository, nor in the cache for the next try."""
    base.faults.add(Fault(SHARD, "flip", times=99))
    with pytest.raises(IntegrityError, match=r"the download of model\.safetensors is damaged"):
        init(NAME, directory=tmp_path / "work")
    assert not (tmp_path / "work").exists()
    base.faults.clear()
    same(fetch_base(NAME, None)[0], model)


def test_a_clone_gets_over_a_damaged_base(base: Loopback, model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    hparams = tmp_path / "hparams.yaml"
    hparams.write_text(hparams_for(load(model), (2,)).replace(device="cpu").to_yaml(), encoding="utf-8")
    init(NAME, directory=tmp_path / "work", hparams=hparams)
    with Repository.open(tmp_path / "work") as repository:
        record(repository, FACTS[:2], (2,), message="first", seed=1)
        add_remote(repository, "origin", "hf://ada/facts", directory=tmp_path)
        push(repository, adapter=False)
        head = repository.head()
        assert repository.fsck() == []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "other-cache"))
    base.faults.add(Fault(SHARD, "status", 403, times=99))
    with pytest.raises(MemitVCError) as caught:
        clone("hf://ada/facts", tmp_path / "copy", start=tmp_path)
    assert caught.value.exit_code == 14
    assert not (tmp_path / "copy").exists()
    base.faults.clear()
    base.faults.add(Fault(SHARD, "flip"))
    clone("hf://ada/facts", tmp_path / "copy", start=tmp_path)
    with Repository.open(tmp_path / "copy") as copy:
        assert copy.head() == head
        assert copy.fsck() == []
