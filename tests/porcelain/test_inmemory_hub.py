"""`from_pretrained` and `apply_state` of a repository on the Hub, as the issue's reader has it: by its name alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import memit_vc
from memit_vc.errors import MemitVCError, RemoteError, RevisionError
from memit_vc.porcelain.sets.branch import create_branch
from memit_vc.porcelain.setup import init
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.sharing.remotes import add_remote
from memit_vc.remote import hub_retry
from memit_vc.remote.opening import PushOptions
from memit_vc.repository import Repository
from tests.support.histories import record
from tests.support.hub.faults import Fault
from tests.support.hub.loopback import Loopback
from tests.support.models import FACTS, hparams_for, load, tiny

BASE, NAME = "ada/base", "ada/facts"


@pytest.fixture
def repository(client: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pushed with two commits; its base is on the Hub too."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_retry, "ATTEMPTS", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    plain = tiny("llama", tmp_path / "base")
    client.add(BASE, {path.name: path.read_bytes() for path in plain.iterdir()})
    hparams = tmp_path / "hparams.yaml"
    hparams.write_text(hparams_for(load(plain), (2,)).replace(device="cpu").to_yaml(), encoding="utf-8")
    init(BASE, directory=tmp_path / "work", hparams=hparams)
    with Repository.open(tmp_path / "work") as opened:
        record(opened, FACTS[:2], (2,), message="first", seed=1)
        record(opened, FACTS[2:4], (2,), message="second", seed=2)
        add_remote(opened, "origin", f"hf://{NAME}", directory=tmp_path)
        push(opened, adapter=False, tag="v1")
        yield opened


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_repository_on_the_hub_loads_by_its_name(client: Loopback, repository: Repository) -> None:
    for name, revision in ((NAME, None), (f"hf://{NAME}", "HEAD~1"), (NAME, "v1"), (NAME, "main~2")):
        expected = memit_vc.from_pretrained(repository, revision)
        assert same(memit_vc.from_pretrained(name, revision), expected)
    # what is pushed later is seen, on main and on other branches
    record(repository, FACTS[4:5], (2,), message="third", seed=3)
    create_branch(repository, "trial")
    push(repository, adapter=False)
    push(repository, None, "trial", adapter=False)
    push(repository, adapter=False, options=PushOptions(branch="aside"))
    for name, revision in ((NAME, None), (NAME, "trial"), (f"{NAME}@aside", None), (NAME, repository.head().commit)):
        assert same(memit_vc.from_pretrained(name, revision), memit_vc.from_pretrained(repository))
    with pytest.raises(RevisionError):
        memit_vc.from_pretrained(NAME, "nothing")


def test_two_branches_of_the_hub_have_two_clones(client: Loopback, repository: Repository) -> None:
    """Also where "/" and "--" stand in the same place."""
    push(repository, adapter=False, options=PushOptions(branch="a--b"))
    before = memit_vc.from_pretrained(repository)
    record(repository, FACTS[4:5], (2,), message="third", seed=3)
    push(repository, adapter=False, options=PushOptions(branch="a/b"))
    assert same(memit_vc.from_pretrained(f"{NAME}@a/b"), memit_vc.from_pretrained(repository))
    assert same(memit_vc.from_pretrained(f"{NAME}@a--b"), before)
    assert not same(memit_vc.from_pretrained(f"{NAME}@a/b"), before)


def test_a_state_from_the_hub_on_a_model(client: Loopback, repository: Repository) -> None:
    model = memit_vc.from_pretrained(repository, "HEAD~2")
    before = memit_vc.from_pretrained(repository, "HEAD~2")
    with memit_vc.apply_state(model, NAME) as applied:
        assert same(model, memit_vc.from_pretrained(repository))
        client.forget()
        applied.switch("HEAD~1")
        assert client.lines() == []
        assert same(model, memit_vc.from_pretrained(repository, "HEAD~1"))
    assert same(model, before)


def test_without_the_hub_the_last_state_counts(
    client: Loopback, repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    client.faults.add(Fault("GET /api/models/ada/facts", "status", 404, times=99))
    with pytest.raises(RemoteError):
        memit_vc.from_pretrained(NAME)
    client.faults.clear()
    expected = memit_vc.from_pretrained(NAME)
    client.faults.add(Fault("GET /api/models", "reset", times=99))
    with caplog.at_level(logging.WARNING):
        assert same(memit_vc.from_pretrained(NAME), expected)
    assert "using the state of the last fetch" in caplog.text


def test_what_is_no_repository(client: Loopback, repository: Repository, tmp_path: Path) -> None:
    for name in ("ada/nothing", "nothing", str(tmp_path), "./ada/facts"):
        with pytest.raises(MemitVCError) as caught:
            memit_vc.from_pretrained(name)
        assert caught.value.hint
