"""Several processes compute what one computes, bit for bit; one alone writes and speaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from memit_vc.objects import Fact
from memit_vc.repository import Repository
from tests.support.models import FACTS, tiny
from tests.support.places import Place, copy_of, make_place
from tests.support.processes.launch import launch


def test_the_engine_in_several_processes(tmp_path: Path) -> None:
    model = tiny("llama", tmp_path / "model")
    found = {}
    for processes in (1, 3):
        output = tmp_path / f"{processes}.safetensors"
        done = launch("tests.support.processes.engine_run", [model, output], processes=processes)
        assert done.returncode == 0, done.stderr
        found[processes] = load_file(output)
    assert sorted(found[1]) == sorted(found[3])
    for name, tensor in found[1].items():
        assert torch.equal(tensor, found[3][name]), name
    assert not torch.equal(found[1]["rehearsed"], found[1]["not rehearsed"])
    assert not torch.equal(found[1]["z"], found[1]["in chat"])
    for layer in (1, 2, 3):
        assert torch.equal(found[1][f"moment.{layer}"], found[3][f"resumed.moment.{layer}"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("place"), v_num_grad_steps=3)


def many() -> list[Fact]:
    """More facts than are searched together, so that every process has some."""
    return [
        Fact(prompt=f.prompt.replace(f.subject, name), subject=name, target=f.target)
        for f in FACTS
        for name in (f"{f.subject} {number}" for number in range(5))
    ]


def test_a_commit_has_the_same_patch_id(place: Place, tmp_path: Path) -> None:
    made = []
    for processes in (1, 2):
        mine = copy_of(place, tmp_path / str(processes))
        arguments = ["commit", "-C", mine.work, "--json", mine.edits(many())]
        done = launch("memit_vc", arguments, processes=processes)
        assert done.returncode == 0, done.stderr
        made.append(json.loads(done.stdout))  # one document: the others print nothing
        with Repository.open(mine.work) as repository:
            assert len(repository.live_facts(repository.head().commit)) == 40
            assert repository.fsck() == []
    assert made[0]["patch"] == made[1]["patch"]
    assert made[0]["state"] == made[1]["state"]
    assert made[0]["after"] == made[1]["after"]


def test_an_error_stops_every_process(place: Place, tmp_path: Path) -> None:
    mine = copy_of(place, tmp_path)
    done = launch("memit_vc", ["commit", "-C", mine.work, mine.work / "nothing.json"], processes=2)
    assert done.returncode != 0
    assert "nothing.json" in done.stderr
    assert "Traceback (most recent call last):\n  File" not in done.stderr.split("nothing.json")[0]
    with Repository.open(mine.work) as repository:
        assert repository.fsck() == []
