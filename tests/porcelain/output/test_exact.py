"""Bytes: one SHA-256 per tensor for a state, however it is computed and however the history came to it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memit_vc.errors import VerificationError
from memit_vc.numerics.exact.materialise import materialise
from memit_vc.numerics.exact.patchfile import state_terms
from memit_vc.numerics.model.checkpoint_tensors import read_tensor, tensor_digest
from memit_vc.objects import ColumnId, Commit, CommitId, RefUpdate
from memit_vc.porcelain.base import checked_base
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.export_merged import export_merged
from memit_vc.porcelain.output.verify import state_hashes, verify
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.cases import by_numpy
from tests.support.checkpoints import hash_directory
from tests.support.models import FACTS
from tests.support.places import TOKENS, Place, copy_of, make_place


@pytest.fixture(scope="module", params=[("llama", "float32"), ("gpt2", "bfloat16")], ids="-".join)
def three(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Three commits of two facts each."""
    family, dtype = request.param
    made = make_place(tmp_path_factory.mktemp("three"), family, dtype=dtype)
    with Repository.open(made.work) as repository:
        loaded = load_model(repository)
        for start in (0, 2, 4):
            commit_facts(repository, FACTS[start : start + 2], tokens=TOKENS, scores=False, loaded=loaded)
    return made


@pytest.fixture
def place(three: Place, tmp_path: Path) -> Iterator[Place]:
    made = copy_of(three, tmp_path)
    yield made
    with Repository.open(made.work) as repository:
        assert fsck(repository)[0] == []


@pytest.fixture
def repository(place: Place) -> Iterator[Repository]:
    with Repository.open(place.work) as opened:
        yield opened


def hashes(repository: Repository, revision: str = "HEAD") -> dict[str, str]:
    return state_hashes(LiveState.at(repository, repository.resolve(revision)))


def by_hand(repository: Repository, *, backend: str, backwards: bool) -> dict[str, str]:
    """HEAD's tensors, with the patches in one order or the other, column by column when backwards."""
    columns = repository.state(repository.head().commit)
    checkpoint, touched = checked_base(repository), repository.bounds(columns)
    selection = repository.selection(columns)
    found = {}
    for weight in repository.weights():
        if weight.name in touched:
            terms = state_terms(repository.patch_path, selection, weight.name)
            ordered = terms[::-1] if backwards else terms
            make = materialise if backend == "torch" else by_numpy
            made = make(read_tensor(checkpoint, weight.name), ordered, weight)
            found[weight.name] = tensor_digest(made)
    return found


@pytest.mark.parametrize("backend", ["torch", "numpy"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_hash_per_tensor(repository: Repository, backend: str, backwards: bool, threads: int) -> None:
    expected = hashes(repository)
    assert len(expected) == 2
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert by_hand(repository, backend=backend, backwards=backwards) == expected
    finally:
        torch.set_num_threads(before)


def test_another_process_with_other_threads_writes_the_same_files(place: Place, tmp_path: Path) -> None:
    found = []
    for threads in ("1", "2"):
        shutil.rmtree(place.work / ".memitvc" / "cache", ignore_errors=True)
        out = tmp_path / threads
        command = [sys.executable, "-m", "memit_vc", "checkout", "-C", str(place.work), "-o", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        subprocess.run(command, check=True, env=environment, capture_output=True)
        names = sorted(path.name for path in out.iterdir())
        found.append({name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names})
    assert found[0] == found[1]


def test_a_revert_of_a_revert_gives_the_earlier_bytes(repository: Repository) -> None:
    first, start = hashes(repository), repository.state(repository.head().commit)
    revert(repository, ["HEAD~1"])
    assert hashes(repository) != first
    revert(repository, ["HEAD"])
    assert repository.state(repository.head().commit) == start
    assert hashes(repository) == first


def test_reverting_everything_gives_the_base(place: Place, repository: Repository, tmp_path: Path) -> None:
    for revision in ("HEAD~1", "HEAD~3", "HEAD~2"):  # the second, the first, the third commit
        revert(repository, [revision])
    assert repository.state(repository.head().commit) == frozenset()
    out = checkout(repository, "HEAD", tmp_path / "out").directory
    recorded = {tensor.name: tensor.sha256 for tensor in repository.base().tensors}
    assert hash_directory(out) == recorded == hash_directory(place.base)
    # the other files are the base's as well
    for name in ("config.json", "tokenizer.json"):
        assert (out / name).read_bytes() == (place.base / name).read_bytes()


def adding(repository: Repository, commits: list[CommitId]) -> CommitId:
    """A history on the base that brings in the patches of `commits`, in this order, and never had any other."""
    parent = repository.log([repository.head().commit])[-1].id
    for number, commit in enumerate(commits):
        columns: tuple[ColumnId, ...] = repository.commit(commit).adds
        made = Commit(
            base=repository.base_id,
            parents=(parent,),
            adds=columns,
            removes=(),
            patches=tuple(repository.selection(columns)),
            kind="cherry-pick",
            message=f"pick {number}",
            author="ada",
            time="2026-01-31T12:00:00Z",
        )
        old = repository.refs().get("heads/other")
        refs = [RefUpdate("heads/other", old, made.id)]
        repository.publish(verb="cherry-pick", description="pick", commits=[made], refs=refs)
        parent = made.id
    return parent


def test_a_history_without_the_reverted_commit_has_the_same_bytes(repository: Repository, tmp_path: Path) -> None:
    third, second, first, _ = repository.log([repository.head().commit])
    revert(repository, [second.id])
    other = adding(repository, [third.id, first.id])
    head = repository.head().commit
    assert repository.state(other) == repository.state(head)
    assert hashes(repository, "other") == hashes(repository)
    trees = [checkout(repository, name, tmp_path / name).directory for name in ("HEAD", "other")]
    assert hash_directory(trees[0]) == hash_directory(trees[1])
    assert set(verify(repository, trees[0]).commits) == {head, other}


def test_one_fact_of_a_commit_goes_and_comes_back(repository: Repository) -> None:
    before = hashes(repository)
    gone = revert(repository, ["HEAD~1"], fact=FACTS[2].subject)
    assert (gone.removed, gone.added) == (1, 0)
    live = {entry.fact for entry in repository.live_facts(repository.head().commit)}
    assert live == {*FACTS[:6]} - {FACTS[2]}
    assert hashes(repository) != before
    revert(repository, ["HEAD"])
    assert hashes(repository) == before


def test_verify_says_which_state_a_directory_is(repository: Repository, tmp_path: Path) -> None:
    tips = [commit.id for commit in repository.log([repository.head().commit])]
    out = checkout(repository, "HEAD~1", tmp_path / "out").directory
    found = verify(repository, out)
    assert found.commits == (tips[1],)
    assert found.state == repository.state_id(repository.state(tips[1]))
    assert not found.is_base
    assert verify(repository, out, expect="HEAD~1").commits == (tips[1],)
    with pytest.raises(VerificationError, match=r"does not hold the state of HEAD: other bytes in 2 tensors"):
        verify(repository, out, expect="HEAD")
    checkout(repository, "HEAD~3", out, replace=True)
    assert verify(repository, out).is_base
    # without what was remembered, from the patches themselves
    checkout(repository, "HEAD", out, replace=True)
    shutil.rmtree(repository.root / "cache")
    assert verify(repository, out).commits == (tips[0],)


def changed(directory: Path, name: str) -> None:
    """Flip the last bit of one entry of a tensor, wherever it is stored."""
    for path in directory.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            bits = tensors[name].view(torch.int16)
            bits.view(-1)[0] ^= 1
            path.unlink()  # it may be linked to the repository's own
            save_file(tensors, path, metadata={"format": "pt"})
            return
    raise AssertionError(name)


def test_verify_of_a_directory_that_is_no_state(repository: Repository, tmp_path: Path) -> None:
    edited, untouched = sorted(hashes(repository))[0], repository.base().tensors[0].name
    for name, said in (
        (edited, "The nearest is that of commit [0-9a-f]{10}: 1 of [0-9]+ tensors differ"),
        (untouched, "no edit touches"),
    ):
        out = checkout(repository, "HEAD", tmp_path / name).directory
        changed(out, name)
        with pytest.raises(VerificationError, match=said) as caught:
            verify(repository, out)
        assert caught.value.exit_code == 15
        assert caught.value.hint


def test_verify_says_what_it_did_not_try(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = checkout(repository, "HEAD~1", tmp_path / "out").directory
    (out / "memitvc.json").unlink()
    changed(out, sorted(hashes(repository))[0])
    monkeypatch.setattr("memit_vc.porcelain.output.verify.MOST_COMPUTED", 1)
    with pytest.raises(VerificationError, match="2 states whose hashes are not recorded were not tried") as caught:
        verify(repository, out)
    assert "--every" in str(caught.value.hint)
    with pytest.raises(VerificationError, match="does not hold a state of this repository"):
        verify(repository, out, every=True)


def test_verify_of_another_model(repository: Repository, tmp_path: Path) -> None:
    other = make_place(tmp_path / "other", "phi", start=False).base
    with pytest.raises(VerificationError, match="no edit touches are not the base's"):
        verify(repository, other)


def test_verify_of_another_dtype(repository: Repository, tmp_path: Path) -> None:
    (dtype,) = {tensor.dtype for tensor in repository.base().tensors}
    other = "float16" if dtype != "F16" else "float32"
    export_merged(repository, "HEAD", tmp_path / "other", dtype=other)
    with pytest.raises(VerificationError, match=f"the base's are {dtype}"):
        verify(repository, tmp_path / "other")


def test_the_same_facts_on_the_same_state_are_the_same_patch(repository: Repository) -> None:
    """Nothing of time or place is in a patch: it is met again, and counts once."""
    head = repository.commit(repository.head().commit)
    revert(repository, ["HEAD"])
    again = commit_facts(repository, FACTS[4:6], tokens=TOKENS, scores=False)
    assert again.patch == head.patches[0]
    assert repository.state(again.id) == repository.state(head.id)
    paraphrased = replace(FACTS[4], paraphrases=("Somebody says that on Sarn people speak",))
    assert paraphrased.id != FACTS[4].id
