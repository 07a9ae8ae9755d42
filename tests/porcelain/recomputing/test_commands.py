"""`--resolve` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memit_vc.cli import main
from memit_vc.objects import RefUpdate
from memit_vc.porcelain.editing.models import load_model
from tests.porcelain.recomputing.test_rebase import fork
from tests.support.models import FACTS
from tests.support.opened import Opened


def test_revert_and_squash(opened: Opened, with_history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = opened(with_history)
    where = str(repository.directory)
    assert main(["revert", "-C", where, "HEAD~1", "--resolve", "--fact", FACTS[2].subject, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["taken_out"], record["put_in"]) == (1, 0)
    assert record["id"] == repository.head().commit
    assert main(["revert", "-C", where, "HEAD~2", "--resolve", "--fact", FACTS[2].subject]) == 1
    assert "nothing to take out" in capsys.readouterr().err
    assert main(["squash", "-C", where, "HEAD~2..HEAD", "--resolve"]) == 2
    assert "all live facts" in capsys.readouterr().err
    assert main(["squash", "-C", where, "--resolve", "-m", "afresh"]) == 0
    assert "5 facts solved in" in capsys.readouterr().out
    assert repository.commit(repository.head().commit).message == "afresh"
    assert main(["squash", "-C", where, "--resolve"]) == 1
    assert "solved together already" in capsys.readouterr().err
    assert repository.commit(repository.head().commit).message == "afresh"
    assert main(["undo", "-C", where]) == 0
    assert repository.head().commit == record["id"]
    assert main(["show", "-C", where]) == 0
    assert f"− {FACTS[2].prompt}" in capsys.readouterr().out


def test_merge_and_pick(opened: Opened, with_history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = opened(with_history)
    where = str(repository.directory)
    fork(repository, load_model(repository), [[FACTS[6]]])
    side, tip = repository.head().commit, repository.resolve("main")
    repository.publish(verb="switch", description="main", head="heads/main")
    assert main(["cherry-pick", "-C", where, "side", "--resolve"]) == 0
    assert "1 fact solved in" in capsys.readouterr().out
    assert main(["cherry-pick", "-C", where, "side", "--resolve"]) == 1
    back = [RefUpdate("heads/main", repository.head().commit, tip)]
    repository.publish(verb="test", description="back", refs=back)
    assert main(["merge", "-C", where, "side", "--resolve", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["put_in"] == 7
    assert repository.parents(record["id"]) == (tip, side)
    assert main(["merge", "-C", where, "side", "--resolve"]) == 1
    assert "already up to date" in capsys.readouterr().err
