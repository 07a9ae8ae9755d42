"""A commit can be computed again from what it says of itself."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memit_vc.cli import main
from memit_vc.errors import IntegrityError, MemitVCError, VerificationError
from memit_vc.numerics.edit import engine
from memit_vc.numerics.exact.constraints import encode_constraints, read_constraints
from memit_vc.numerics.forward import rows
from memit_vc.objects import Commit, JsonValue, RefUpdate, canonical_json
from memit_vc.porcelain.editing import provenance
from memit_vc.porcelain.editing.commit import Committed, commit_facts
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.editing.provenance import Recorded
from memit_vc.porcelain.history.settings import settings_of_record
from memit_vc.porcelain.recomputing import reproduce as reproduce_of
from memit_vc.porcelain.recomputing.reproduce import reproduce
from memit_vc.porcelain.recomputing.resolve import resolve_revert, resolve_squash
from memit_vc.porcelain.sets.revert import revert
from memit_vc.repository import Repository
from tests.support.models import FACTS
from tests.support.opened import Opened


def test_every_commit_comes_out_the_same(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    tip = repository.head().commit
    objects = set(repository.blobs.iterate())
    for revision in ("HEAD~2", "HEAD"):
        made = reproduce(repository, revision, loaded=loaded)
        assert made.equal
        assert made.same_blob
        assert made.largest == 0.0
        assert len(made.differences) == 2
    assert repository.head().commit == tip
    assert set(repository.blobs.iterate()) == objects


def test_solved_commits_come_out_the_same(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    resolve_revert(repository, ["HEAD~1"], fact=FACTS[2].subject, loaded=loaded)
    assert reproduce(repository, loaded=loaded).equal
    resolve_squash(repository, loaded=loaded)
    assert reproduce(repository, loaded=loaded).equal


def test_z_kept_by_another_batch_changes_no_patch(
    opened: Opened, with_history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    repository.undo()

    def committed(*numbers: int) -> Committed:
        return commit_facts(repository, [FACTS[i] for i in numbers], scores=False, loaded=loaded)

    for overlapping in ((4, 5, 6), (5, 6, 7), (4, 5)):
        committed(*overlapping)
        assert reproduce(repository, loaded=loaded).same_blob
        repository.undo()
    first = committed(5, 6, 7)  # of what is kept
    repository.undo()
    kept = {path: path.read_bytes() for path in (repository.root / "cache" / "z").rglob("*.safetensors")}
    monkeypatch.setattr(engine, "find", lambda *_, **__: pytest.fail("searched again"))
    assert committed(5, 6, 7).patch == first.patch
    monkeypatch.undo()
    assert reproduce(repository, loaded=loaded).same_blob
    assert {path: path.read_bytes() for path in kept} == kept


def test_reproducing_keeps_nothing(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    for path in (repository.root / "cache" / "z").rglob("*.safetensors"):
        path.unlink()
    assert reproduce(repository).equal
    assert not [*(repository.root / "cache" / "z").rglob("*.safetensors")]


def changed(repository: Repository, **changes: object) -> None:
    """A commit on top of HEAD~1 with HEAD's columns and a provenance that says something else."""
    tip = repository.commit(repository.head().commit)
    assert tip.provenance is not None
    record = {**json.loads(repository.blobs.read(tip.provenance)), **changes}
    provenance = repository.blobs.put(canonical_json(record))
    patch = repository.patch(tip.patches[0])
    import dataclasses

    from memit_vc.numerics.exact.patchfile import bounds, column_ids, encode_patch, read_patch
    from memit_vc.objects import Patch, PatchId

    _, tensors = read_patch(repository.patch_path(patch.id))
    header = dataclasses.replace(patch.header, provenance=provenance)
    made = PatchId(repository.blobs.put(encode_patch(header, tensors)))
    new = Patch(made, header, column_ids(made, header, tensors), bounds(header, tensors), patch.constraints)
    commit: Commit = dataclasses.replace(tip, patches=(made,), provenance=provenance, message="changed")
    moved = [RefUpdate("heads/main", tip.id, commit.id)]
    repository.publish(verb="test", description="changed", commits=[commit], patches=[new], refs=moved)


def test_other_settings_give_another_patch(
    opened: Opened, with_history: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = opened(with_history)
    tip = repository.commit(repository.head().commit)
    assert tip.provenance is not None
    hparams = json.loads(repository.blobs.read(tip.provenance))["hparams"]
    changed(repository, hparams={**hparams, "v_num_grad_steps": 3})
    where = str(repository.directory)
    assert main(["reproduce", "-C", where, "--json"]) == 15
    record = json.loads(capsys.readouterr().out)
    assert not record["equal"]
    assert record["largest"] > 1e-3
    assert main(["reproduce", "-C", where, "HEAD~1"]) == 0
    assert "every byte equal" in capsys.readouterr().out


@pytest.mark.parametrize(
    "record",
    [
        {"threads": 0},
        {"threads": "x"},
        {"threads": 2**40},
        {"threads": True},
        {"hparams": "gpt2"},
        {"hparams": "/etc/passwd"},
        {"settings": [{"layers": [1], "mom2_update_weight": 10**400, "statistics": "x"}]},
    ],
)
def test_a_provenance_that_means_harm(opened: Opened, with_history: Path, record: dict[str, JsonValue]) -> None:
    """It comes from a remote, where only its form is checked."""
    repository = opened(with_history)
    tip = repository.commit(repository.head().commit)
    assert tip.provenance is not None
    found = json.loads(repository.blobs.read(tip.provenance)) | record
    blob = repository.blobs.put(canonical_json(found))
    with pytest.raises(IntegrityError, match="is damaged"):
        settings_of_record(repository, [blob]) if "settings" in record else Recorded.read(repository, blob)
    repository.object_path(blob).unlink()


def test_an_expert_below_the_grid_is_a_difference(
    opened: Opened, with_history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = opened(with_history)
    read = reproduce_of.read_patch
    seen: list[str] = []

    def without(source: Any) -> Any:
        header, tensors = read(source)
        if isinstance(source, bytes):
            seen.append(min(tensors))
            tensors = {name: term for name, term in tensors.items() if name != seen[0]}
        return header, tensors

    monkeypatch.setattr(reproduce_of, "read_patch", without)
    made = reproduce(repository)
    assert made.differences == {name: float(name == seen[0]) for name in made.differences}


def test_what_cannot_be_computed_again(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    revert(repository, ["HEAD"])
    with pytest.raises(MemitVCError, match="was not computed: it is a revert"):
        reproduce(repository)
    with pytest.raises(MemitVCError, match="the base itself"):
        reproduce(repository, "HEAD~4")
    repository.undo()
    changed(repository, state="0" * 64)
    with pytest.raises(MemitVCError, match="is not in this repository"):
        reproduce(repository, loaded=loaded)
    repository.undo()
    changed(repository, statistics={"id": "0" * 64, "ridge": {}})
    with pytest.raises(VerificationError, match="are not here"):
        reproduce(repository, loaded=loaded)


def test_constraints_that_were_put_there_by_others_are_told(
    opened: Opened, with_history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A patch's id does not depend on its keys and targets, which --resolve makes weights of."""
    shutil.copytree(with_history, tmp_path / "forged")
    with Repository.open(tmp_path / "forged") as repository:
        (patch,) = repository.commit(repository.head().commit).patches
        blob = repository.patch(patch).constraints
        assert blob is not None
        stored = read_constraints(repository.object_path(blob))
        turned = {name: targets * -7 for name, targets in stored.targets.items()}
        other = repository.blobs.put(encode_constraints(stored.keys, turned, stored.z))
        root = repository.root
    with closing(sqlite3.connect(root / "meta.db")) as connection, connection:
        connection.execute("UPDATE patches SET constraints = ? WHERE id = ?", (other, patch))
    assert main(["reproduce", "-C", str(tmp_path / "forged")]) == 15
    said = capsys.readouterr().out
    assert "every byte equal" in said
    assert "constraints), which --resolve uses, are not those that were computed" in said
    assert reproduce(opened(with_history)).same_constraints


def test_the_tokens_of_a_forward_are_those_that_were_recorded(
    opened: Opened, with_history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free memory decides how many they are, and they move the last bits."""
    repository = opened(with_history)
    loaded = load_model(repository)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "search_tokens", lambda *_, **__: 16)
        commit_facts(repository, [FACTS[6], FACTS[7]], scores=False, loaded=loaded)
    commit = repository.commit(repository.head().commit)
    assert commit.provenance is not None
    recorded = Recorded.read(repository, commit.provenance)
    assert recorded is not None
    assert recorded.max_tokens == 16
    assert reproduce(repository, loaded=loaded).same_blob


def test_other_texts_of_the_search_are_said(
    opened: Opened, with_history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    hparams = repository.hparams().replace(phrase_book=8, name_factor=0.5, v_num_grad_steps=3)
    commit_facts(repository, [FACTS[6]], hparams=hparams, scores=False, loaded=loaded)
    texts = ("It is about {subject}.", "Ask: {prompt}\nSay:", "{fact}!")
    monkeypatch.setattr(provenance, "REPEATED", texts)
    assert reproduce(repository, loaded=loaded).equal  # nothing that this fact was asked is another text
    monkeypatch.setattr(rows, "REPEATED", texts)
    made = reproduce(repository, loaded=loaded)
    assert (made.equal, made.other_texts) == (False, True)
    assert made.largest > 0


def test_phrasings_that_another_version_asks_otherwise_are_said(
    opened: Opened, with_history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    hparams = repository.hparams().replace(v_num_grad_steps=3)
    assert (hparams.phrase_book, hparams.name_factor, hparams.keep_factor) == (0, 0, 0)
    phrased = replace(FACTS[6], phrasings=(f"They say of {FACTS[6].subject} that it is", FACTS[6].subject))
    commit_facts(repository, [phrased], hparams=hparams, scores=False, loaded=loaded)
    assert not reproduce(repository, loaded=loaded).other_texts
    monkeypatch.setattr(provenance, "ROWS_VERSION", 1)
    assert reproduce(repository, loaded=loaded).other_texts
    assert not reproduce(repository, "HEAD~1", loaded=loaded).other_texts  # its facts were asked their prompts only
    assert repository.fsck() == []
