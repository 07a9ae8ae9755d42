"""A state as a plain checkpoint on the Hub: what transformers loads from there, and how few bytes go up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, snapshot_download
from transformers import AutoModelForCausalLM

from memit_vc.cli import main
from memit_vc.errors import MemitVCError, UsageError
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.setup import init
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.sharing.push_merged import push_merged
from memit_vc.porcelain.sharing.remotes import add_remote
from memit_vc.remote.hub import HubRemote
from memit_vc.repository import Repository
from tests.support.histories import record
from tests.support.hub.faults import Fault
from tests.support.hub.loopback import Loopback
from tests.support.models import FACTS, hparams_for, load, tiny

BASE, NAME = "ada/base", "ada/edited"


@pytest.fixture
def repository(client: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """Two commits on a base of several shards that is on the Hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    plain = tiny("llama", tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(plain).save_pretrained(tmp_path / "split", max_shard_size="60KB")
    files = {path.name: path.read_bytes() for path in [*plain.iterdir(), *(tmp_path / "split").iterdir()]}
    del files["model.safetensors"]
    client.add(BASE, files)
    hparams = tmp_path / "hparams.yaml"
    hparams.write_text(hparams_for(load(plain), (2,)).replace(device="cpu").to_yaml(), encoding="utf-8")
    work = tmp_path / "work"
    work.mkdir()
    init(BASE, directory=work, hparams=hparams)
    with Repository.open(work) as opened:
        record(opened, FACTS[:2], (2,), message="first", seed=1)
        record(opened, FACTS[2:4], (2,), message="second", seed=2)
        client.forget()
        yield opened
        assert opened.fsck() == []
        assert list((opened.root / "cache").glob("merged*")) == []


def there(hub: Loopback) -> HubRemote:
    return HubRemote(NAME, endpoint=hub.endpoint)


def same(directory: Path, expected: Path) -> bool:
    one, other = (
        AutoModelForCausalLM.from_pretrained(path, local_files_only=True).state_dict() for path in (directory, expected)
    )
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_only_what_is_new_goes_up(client: Loopback, repository: Repository, tmp_path: Path) -> None:
    planned = push_merged(repository, there(client), dry_run=True)
    assert planned.revision is None
    assert NAME not in client.repos
    made = push_merged(repository, there(client))
    assert (dict(made.sent), dict(made.copied)) == (dict(planned.sent), dict(planned.copied))
    assert len(made.copied) >= 2
    assert sum(made.copied.values()) > 200_000
    hot = checkout(repository, "HEAD", tmp_path / "second").directory
    large = client.lines("PUT /ada/edited/")
    assert len(large) == sum(name.endswith(".safetensors") for name in made.sent)
    got = Path(snapshot_download(NAME, revision=made.revision, local_dir=tmp_path / "got"))
    assert same(got, hot)
    assert not (got / "memitvc.json").exists()
    card = (got / "README.md").read_text(encoding="utf-8")
    assert f"base_model: {BASE}" in card
    assert "base_model_relation: finetune" in card
    assert f'from_pretrained("{NAME}")' in card

    client.forget()
    again = push_merged(repository, there(client), "HEAD~1")
    assert set(again.sent) == {"model-hot.safetensors", "README.md"} | {
        name for name in again.sent if not name.endswith(".safetensors")
    }
    assert again.copied == {}
    assert set(again.kept) >= made.copied.keys()
    assert len(client.lines("PUT /ada/edited/")) == 1
    got = Path(snapshot_download(NAME, revision=again.revision, local_dir=tmp_path / "older"))
    assert same(got, checkout(repository, "HEAD~1", tmp_path / "first").directory)


def test_a_hub_that_does_not_copy(client: Loopback, repository: Repository, tmp_path: Path) -> None:
    client.faults.add(Fault("POST .*/lfs-files/duplicate", "status", 403, times=9))
    made = push_merged(repository, there(client))
    assert made.copied == {}
    assert any("did not copy" in note for note in made.notes)
    got = Path(snapshot_download(NAME, revision=made.revision, local_dir=tmp_path / "got"))
    assert same(got, checkout(repository, "HEAD", tmp_path / "second").directory)


def test_weights_that_are_no_longer_used_go(client: Loopback, repository: Repository) -> None:
    client.add(NAME, {"model.safetensors": b"old", "notes.md": b"mine", "README.md": b"# Mine\n"})
    made = push_merged(repository, there(client))
    listing = there(client).listing(str(made.revision))
    assert "model.safetensors" not in listing
    assert {"notes.md", "model.safetensors.index.json", "model-hot.safetensors"} <= listing.keys()
    assert b"# Mine" in there(client).read("README.md", str(made.revision), limit=100_000)


def test_a_history_is_not_mixed_with_a_model(client: Loopback, repository: Repository) -> None:
    client.add(NAME, {"memitvc.json": b"{}"})
    with pytest.raises(UsageError, match="holds a history"):
        push_merged(repository, there(client))


def test_the_history_is_where_it_was_pushed(client: Loopback, repository: Repository) -> None:
    """A remote that was only named has nothing for a reader."""
    place = repository.root.parent
    add_remote(repository, "aside", "hf://ada/never", directory=place)
    add_remote(repository, "origin", "hf://ada/facts", directory=place)

    def card() -> bytes:
        made = push_merged(repository, there(client))
        return there(client).read("README.md", made.revision, limit=100_000)

    assert b"were not published with this model" in card()
    push(repository, "origin", adapter=False)
    assert b"memitvc clone ada/facts edited" in card()


def test_a_failed_push_leaves_nothing(client: Loopback, repository: Repository) -> None:
    client.faults.add(Fault("POST .*/commit/", "status", 403, times=9))
    with pytest.raises(MemitVCError, match="may not write"):
        push_merged(repository, there(client))
    assert client.repos[NAME].store.log("main")[0][1] == "initial commit"


def test_the_command(client: Loopback, repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["-C", str(repository.root.parent)]
    assert main(["push", *place, "--merged", NAME, "HEAD~1", "--private", "--dry-run"]) == 0
    assert "would send" in capsys.readouterr().out
    assert NAME not in client.repos
    assert main(["push", *place, "--merged", NAME, "HEAD~1", "--private", "--tag", "v1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["commit"] == repository.resolve("HEAD~1")
    assert client.repos[NAME].private
    assert client.repos[NAME].store.refs()["refs/tags/v1"] == printed["revision"]
    assert main(["push", *place, "--merged"]) == 2
    assert main(["push", *place, "--merged", NAME, "--no-adapter"]) == 2
    assert main(["push", *place, "--merged", str(repository.root)]) == 2
