"""The base from the Hub: each fault on its way is got over or told, and damaged bytes never become a base."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from memit_vc.errors import IntegrityError, MemitVCError, RemoteError, UnsupportedModelError
from memit_vc.porcelain.base import checked_base, fetch_base
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
COMMIT = "0123456789abcdef" * 2 + "01234567"
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


def copied(model: Path, cache: Path, *, ref: bool = True, lacks: str = "LICENSE.txt") -> Path:
    """A cache as other patterns or a copy left it: plain files, and a list of all files, one of which is missing."""
    top = cache / "models--ada--base"
    place = top / "snapshots" / COMMIT
    shutil.copytree(model, place, ignore=shutil.ignore_patterns(lacks))
    names = {path.name for path in model.iterdir()} | {"LICENSE.txt"}
    files = {name: {"size": 1, "blob_id": "0" * 40} for name in names}
    (top / "trees").mkdir()
    (top / "trees" / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": files}))
    if ref:
        (top / "refs").mkdir()
        (top / "refs" / "main").write_text(COMMIT)
    return place


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_file_that_nobody_needs_may_be_missing_in_the_cache(offline: Path, model: Path, tmp_path: Path) -> None:
    place = copied(model, offline)
    assert fetch_base(NAME, None) == (place, COMMIT)
    init(NAME, directory=tmp_path / "work")
    with Repository.open(tmp_path / "work") as repository:
        assert checked_base(repository).directory == place
        assert repository.fsck() == []
        (place / "model.safetensors").unlink()
        with pytest.raises(RemoteError, match=r"not whole: .* has neither model\.safetensors") as caught:
            checked_base(repository)
    assert f"hf download {NAME} --revision {COMMIT}" in str(caught.value.hint)


def test_weights_that_are_missing_in_the_cache_are_named(offline: Path, model: Path, tmp_path: Path) -> None:
    copied(model, offline, lacks="model.safetensors")
    with pytest.raises(RemoteError, match=r"not whole: .* has neither model\.safetensors"):
        init(NAME, directory=tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_cache_without_refs_says_what_it_has(offline: Path, model: Path) -> None:
    place = copied(model, offline, ref=False)
    with pytest.raises(RemoteError, match=f"but has {COMMIT}") as caught:
        fetch_base(NAME, None)
    assert f"--revision {COMMIT}" in str(caught.value.hint)
    assert fetch_base(NAME, COMMIT) == (place, COMMIT)


SETTINGS = [
    ({"ALL_PROXY": "socks://me:secret@127.0.0.1:7890"}, "the setting ALL_PROXY is not the address of a proxy"),
    ({"all_proxy": "socks5://me:secret@127.0.0.1:7890"}, "the setting all_proxy names a SOCKS proxy, which needs"),
    ({"HTTPS_PROXY": "foo:secret"}, "the setting HTTPS_PROXY is not the address of a proxy"),
    ({"HF_TOKEN": "hf_secr\u00e9t"}, "the token holds a character that is not ASCII"),
]


@pytest.mark.parametrize(("settings", "said"), SETTINGS, ids=[next(iter(each)) for each, _ in SETTINGS])
def test_settings_that_fail_before_anything_is_sent(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], said: str
) -> None:
    from huggingface_hub import close_session

    if "socks5" in str(settings) and importlib.util.find_spec("socksio"):
        pytest.skip("socksio is installed")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_retry, "_wait", lambda _: pytest.fail("nothing to wait for"))
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    close_session()  # the client of this process has read its proxies already
    try:
        with pytest.raises(RemoteError, match=said) as caught:
            fetch_base(NAME, None)
        assert "secr" not in f"{caught.value.message} {caught.value.hint}"
        place = copied(model, tmp_path / "cache")
        assert fetch_base(NAME, None) == (place, COMMIT)
    finally:
        close_session()


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "acme/tiny"}')
    with pytest.raises(UnsupportedModelError, match="is an adapter of acme/tiny, not a model"):
        init(str(tmp_path), directory=tmp_path / "work")
    (tmp_path / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(UnsupportedModelError, match="is an adapter, not a model"):
        init(str(tmp_path), directory=tmp_path / "work")


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
