"""What the verbs of the algebra say on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memit_vc.cli import main
from memit_vc.porcelain.sets.switch import switch, switch_to_new
from memit_vc.repository import Repository
from tests.support.algebra.world import World, fact


@pytest.fixture
def forked(world: World, tmp_path: Path) -> Repository:
    """main says b, side says a; HEAD is on main."""
    with world.copy(tmp_path / "work") as repository:
        switch_to_new(repository, "side")
        world.commit(repository, [fact(1, "a")])
        switch(repository, "main")
        world.commit(repository, [fact(1, "b")])
        return repository


def test_a_conflict_as_json(forked: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(forked.directory)
    assert main(["merge", "-C", where, "side", "--json"]) == 13
    error = json.loads(capsys.readouterr().err)["error"]
    (conflict,) = error["conflicts"]
    assert (conflict["subject"], conflict["ours"]["target"], conflict["theirs"]["target"]) == ("City 1", "b", "a")
    assert len(conflict["ours"]["commit"]) == 64


def test_likely_conflicts_that_nobody_looked_for(forked: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(forked.directory)
    assert main(["merge", "-C", where, "side", "--theirs"]) == 0
    assert "--check-overlap" in capsys.readouterr().err
    assert main(["undo", "-C", where]) == 0
    assert main(["cherry-pick", "-C", where, "side", "--theirs"]) == 0
    assert "--check-overlap" in capsys.readouterr().err


def test_a_revert_that_contradicts(forked: Repository, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(forked.directory)
    assert main(["revert", "-C", where, "HEAD~1..HEAD"]) == 0
    assert main(["cherry-pick", "-C", where, "side"]) == 0
    capsys.readouterr()
    assert main(["revert", "-C", where, "HEAD~1"]) == 13
    assert "--theirs" in capsys.readouterr().err
    assert main(["revert", "-C", where, "HEAD~1", "--theirs", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["removed"], made["added"], len(made["contradictions"])) == (1, 1, 1)


def test_kept_patches(world: World, forked: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(forked.directory)
    with Repository.open(forked.directory) as repository:
        patches = [world.patch(repository, [fact(n)], seed=9) for n in (3, 4)]
        for number, patch in zip((3, 4), patches, strict=True):
            parent = repository.head().commit
            repository.keep_patch(patch, [fact(number)], parent=parent, message="late", details={})
    assert main(["commit", "-C", where, "--patch", patches[0].id[:8]]) == 0
    assert "1 fact of the kept patch" in capsys.readouterr().out
    assert main(["commit", "-C", where, "--drop"]) == 2
    assert main(["commit", "-C", where, "--patch", patches[1].id[:8], "--drop", "--json"]) == 0
    capsys.readouterr()
    assert main(["status", "-C", where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == []
