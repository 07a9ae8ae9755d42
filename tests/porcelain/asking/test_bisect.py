"""bisect: sessions that survive, commands that test, and the model as its own test."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from memit_vc.cli import main
from memit_vc.errors import IntegrityError, LockedError, MemitVCError, UsageError
from memit_vc.objects import ColumnId, Commit, CommitId, RefUpdate
from memit_vc.porcelain.asking import bisect
from memit_vc.porcelain.asking import bisect_prompt as bisect_prompt_module
from memit_vc.porcelain.asking.bisect_prompt import bisect_prompt
from memit_vc.porcelain.editing import models as models_module
from memit_vc.porcelain.editing.models import LoadedModel, load_model
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sets.switch import switch_to_new
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.gc import collect_garbage
from memit_vc.repository import Repository
from memit_vc.store.locks import locked
from tests.support.models import FACTS
from tests.support.opened import Opened
from tests.support.synthetic import fact, record

PROMPT, ANSWER = FACTS[4].prompt, FACTS[4].target
"""The model says it where the third batch is in and the second is not alone with it."""


def history(repository: Repository, count: int = 20) -> list[CommitId]:
    return [record(repository, [fact(number)], message=f"edit {number}").id for number in range(count)]


def test_a_session_finds_the_commit_and_survives(plain_repository: Repository) -> None:
    commits = history(plain_repository)
    guilty = commits[12]
    step = bisect.start(plain_repository, "HEAD", ["HEAD~20"])
    asked = 0
    while step.found is None:
        with Repository.open(plain_repository.directory) as another:  # as the next command would
            step = bisect.current(another)
            assert step.candidate is not None
            before = step.left
            bad = commits.index(step.candidate) >= commits.index(guilty)
            step = bisect.mark(another, "bad" if bad else "good")
            assert step.left < before
        asked += 1
    assert step.found == guilty
    assert asked <= 5
    assert bisect.reset(plain_repository)
    assert not bisect.reset(plain_repository)


def test_ends_can_be_said_later_and_skipped_ones_stay_open(plain_repository: Repository) -> None:
    commits = history(plain_repository, 4)
    assert bisect.start(plain_repository).candidate is None
    with pytest.raises(UsageError, match="no commit is being tested"):
        bisect.mark(plain_repository, "bad")
    bisect.mark(plain_repository, "bad", ["HEAD"])
    assert bisect.mark(plain_repository, "good", ["HEAD~4"]).left == 4
    step = bisect.mark(plain_repository, "skip", ["HEAD~1", "HEAD~2"])
    assert step.candidate == commits[0]
    step = bisect.mark(plain_repository, "good")
    assert step.found is None
    assert set(step.undecided) == set(commits[1:])


def test_a_run_gives_its_verdict_to_the_commit_that_it_tested(
    plain_repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another terminal changes the session while the command runs."""
    commits = history(plain_repository, 8)
    monkeypatch.setattr(bisect, "checkout", lambda *_, **__: None)
    bisect.start(plain_repository, "HEAD", ["HEAD~8"])
    tested = []

    def execute(_: Path, commit: CommitId) -> int:
        if not tested:
            bisect.mark(plain_repository, "bad", [commits[5]])
        tested.append(commit)
        return int(commits.index(commit) >= 4)

    assert bisect.run(plain_repository, execute).found == commits[4]
    assert bisect.reset(plain_repository)


def test_two_commands_at_one_session_wait_for_each_other(
    plain_repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    history(plain_repository, 4)
    bisect.start(plain_repository, "HEAD", ["HEAD~4"])
    monkeypatch.setattr(plain_repository.database, "busy_seconds", 0.05)
    before = bisect.current(plain_repository)
    with locked(plain_repository.root / "cache" / "bisect.lock", wait=0, busy="", hint=""):
        for act in (
            lambda: bisect.mark(plain_repository, "bad"),
            lambda: bisect.reset(plain_repository),
            lambda: bisect.start(plain_repository),
        ):
            with pytest.raises(LockedError, match="another command is at the bisection"):
                act()
        assert bisect.current(plain_repository) == before
    assert bisect.mark(plain_repository, "bad").left < before.left


def test_what_makes_no_sense_is_refused_and_changes_nothing(plain_repository: Repository) -> None:
    history(plain_repository, 4)
    with pytest.raises(UsageError, match="no bisection is under way"):
        bisect.current(plain_repository)
    with pytest.raises(MemitVCError, match="in the history of a good commit"):
        bisect.start(plain_repository, "HEAD~3", ["HEAD"])
    bisect.start(plain_repository, "HEAD", ["HEAD~4"])
    before = bisect.current(plain_repository)
    with pytest.raises(UsageError, match="already under way"):
        bisect.start(plain_repository, "HEAD", ["HEAD~4"])
    with pytest.raises(MemitVCError, match="in the history of a good commit"):
        bisect.mark(plain_repository, "good", ["HEAD"])
    assert bisect.current(plain_repository) == before
    (plain_repository.root / "bisect.json").write_text('{"format": 1}')
    with pytest.raises(IntegrityError, match=r"bisect\.json"):
        bisect.current(plain_repository)
    assert bisect.reset(plain_repository)


def test_a_command_tests_checkouts(
    opened: Opened, with_history: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    repository = opened(with_history)
    where, guilty = str(repository.directory), repository.resolve("HEAD~1")
    script = tmp_path / "test.py"
    script.write_text(
        "import json, os, pathlib, sys\n"
        "from safetensors import safe_open\n"
        "model = pathlib.Path(sys.argv[1])\n"
        "assert str(model) == os.environ['MEMITVC_MODEL'] and (model / 'config.json').exists()\n"
        f"sys.exit(0 if os.environ['MEMITVC_COMMIT'] == {repository.resolve('HEAD~2')!r} else 1)\n"
    )
    assert main(["bisect", "-C", where, "run", "true"]) == 2
    assert main(["bisect", "-C", where, "start", "HEAD", "HEAD~3"]) == 0
    assert main(["bisect", "run", "-C", where, "sh", "-c", "exit 200"]) == 1
    assert "200" in capfd.readouterr().err
    assert main(["bisect", "run", "-C", where, "no-such-program-at-all"]) == 2
    shell = tmp_path / "test.sh"  # without `#!`, which git gives to the shell
    shell.write_text("exit 201\n")
    shell.chmod(0o755)
    assert main(["bisect", "run", "-C", where, str(shell)]) == 1
    assert "201" in capfd.readouterr().err
    assert main(["bisect", "run", "-C", where, str(shell / "below")]) == 2
    assert "Give a program that can be run" in capfd.readouterr().err
    assert main(["bisect", "run", "-C", where, "--json", sys.executable, str(script), "{}"]) == 0
    assert json.loads(capfd.readouterr().out)["found"] == guilty
    assert main(["bisect", "log", "-C", where]) == 0
    assert f"bad {guilty}" in capfd.readouterr().out
    assert not list((repository.root / "cache").glob("bisect.tmp*"))
    assert main(["bisect", "reset", "-C", where]) == 0
    assert main(["bisect", "-C", where]) == 2


def test_what_a_run_cannot_test_is_skipped(plain_repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = history(plain_repository)
    monkeypatch.setattr(bisect, "checkout", lambda _, __, directory, **___: directory.mkdir())
    bisect.start(plain_repository, "HEAD", ["HEAD~20"])
    guilty, broken = 12, {7, 8, 9, 10}
    said = []

    def execute(directory: Path, commit: CommitId) -> int:
        directory.rmdir()
        number = commits.index(commit)
        return 125 if number in broken else int(number >= guilty)

    step = bisect.run(plain_repository, execute, on_step=lambda _, verdict: said.append(verdict))
    assert step.found == commits[guilty]
    assert "skip" in said
    assert bisect.current(plain_repository) == step


def test_a_run_that_was_killed_goes_on(opened: Opened, with_history: Path, tmp_path: Path) -> None:
    repository = opened(with_history)
    where, guilty = str(repository.directory), repository.resolve("HEAD~1")
    assert main(["bisect", "-C", where, "start", "HEAD", "HEAD~3"]) == 0
    good = repository.resolve("HEAD~2")
    script = tmp_path / "test.py"
    # the first candidate is tested; in the middle of the second one everything dies
    script.write_text(
        "import os, pathlib, signal, sys\n"
        f"count = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "done = int(count.read_text()) if count.exists() else 0\n"
        "count.write_text(str(done + 1))\n"
        "if done == 1: os.kill(os.getppid(), signal.SIGKILL)\n"
        f"sys.exit(0 if os.environ['MEMITVC_COMMIT'] == {good!r} else 1)\n"
    )
    run = [sys.executable, "-m", "memit_vc", "bisect", "run", "-C", where, sys.executable, str(script)]
    assert subprocess.run(run, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert len(bisect.current(repository).session.log) == 4  # start, both ends, one verdict
    assert subprocess.run(run, check=True, capture_output=True).returncode == 0
    assert bisect.current(repository).found == guilty
    assert (tmp_path / "count").read_text() == "3"
    # the model that the killed run had checked out goes with `gc`
    assert len(list((repository.root / "cache").glob("bisect.tmp*"))) == 1
    collect_garbage(repository, grace=0.0)
    assert not list((repository.root / "cache").glob("bisect.tmp*"))


def batches(repository: Repository) -> list[frozenset[ColumnId]]:
    states = [repository.state(repository.resolve(f"HEAD~{n}")) for n in (3, 2, 1, 0)]
    return [newer - older for older, newer in pairwise(states)]


def chain(repository: Repository, states: Sequence[frozenset[ColumnId]]) -> list[CommitId]:
    """Commits on the base with these states, on branch main."""
    old, parent, present = repository.head().commit, repository.resolve("HEAD~3"), frozenset[ColumnId]()
    made = []
    for number, state in enumerate(states):
        commit = Commit(
            base=repository.base_id,
            parents=(parent,),
            adds=tuple(sorted(state - present)),
            removes=tuple(sorted(present - state)),
            patches=tuple(sorted(LiveState(repository, state - present).selection)),
            kind="commit",
            message=f"step {number}",
            author="Ada",
            time="2026-01-31T12:00:00Z",
        )
        made.append(commit)
        parent, present = commit.id, state
    moved = [RefUpdate("heads/main", old, parent)]
    repository.publish(verb="test", description="chain", commits=made, refs=moved)
    return [commit.id for commit in made]


def test_the_model_finds_the_planted_commit_with_one_load(
    opened: Opened, with_history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = opened(with_history)
    one, _, three = batches(repository)
    empty = frozenset[ColumnId]()
    commits = chain(repository, [(one if n % 2 else empty) | (three if n >= 31 else empty) for n in range(50)])
    loads = []

    def counted(*args: object, **kwargs: object) -> LoadedModel:
        loads.append(args)
        return load_model(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(models_module, "load_model", counted)
    found = bisect_prompt(repository, PROMPT, ANSWER)
    assert found.found == commits[31]
    assert found.says
    assert len(loads) == 1
    assert found.tested <= 4  # states that were seen before are not asked again
    # a bisection that was interrupted finds its answers kept
    again = bisect_prompt(repository, PROMPT, ANSWER)
    assert (again.found, again.tested) == (commits[31], 0)


def test_a_fact_that_was_lost_is_found_too(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    one, two, three = batches(repository)
    commits = chain(repository, [three, three | one, three, three | two, three | two])
    loaded = load_model(repository)
    found = bisect_prompt(repository, PROMPT, ANSWER, good="HEAD~4", loaded=loaded)
    assert (found.found, found.says) == (commits[3], False)
    guilty = bisect_prompt(repository, PROMPT, ANSWER, good="HEAD~4", pairs=True, loaded=loaded)
    assert guilty.guilty == (commits[3],)
    with pytest.raises(MemitVCError, match="at neither end"):
        bisect_prompt(repository, PROMPT, "Berlin", loaded=loaded)
    with pytest.raises(MemitVCError, match="in the history of"):
        bisect_prompt(repository, PROMPT, ANSWER, good="HEAD", bad="HEAD~1", loaded=loaded)


def test_what_is_guilty_together(opened: Opened, with_history: Path) -> None:
    """Beside the second batch, the third needs the first to give its answer."""
    repository = opened(with_history)
    one, two, three = batches(repository)
    commits = chain(repository, [two, two | one, two | one | three])
    found = bisect_prompt(repository, PROMPT, ANSWER, good="HEAD~2", pairs=True)
    assert found.guilty == (commits[1], commits[2])


def test_only_commits_between_the_ends_are_guilty(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    out = revert(repository, ["HEAD"])
    back = revert(repository, [out.id])
    found = bisect_prompt(repository, PROMPT, ANSWER, good=out.id, pairs=True, loaded=loaded)
    assert found.guilty == (back.id,)


def test_a_session_whose_commits_are_gone_says_how_to_end_it(plain_repository: Repository) -> None:
    history(plain_repository, 3)
    bisect.start(plain_repository, "HEAD", ["HEAD~3"])
    root = plain_repository.resolve("HEAD~3")
    moved = [RefUpdate("heads/main", plain_repository.head().commit, root)]
    plain_repository.publish(verb="reset", description="back", refs=moved)
    collect_garbage(plain_repository, grace=0.0, keep_operations=0)
    with pytest.raises(IntegrityError, match="no longer here") as stopped:
        bisect.current(plain_repository)
    assert "bisect reset" in str(stopped.value.hint)
    assert bisect.reset(plain_repository)


def test_json_of_the_group_is_that_of_the_subcommand(
    plain_repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    history(plain_repository, 4)
    assert main(["bisect", "--json", "-C", str(plain_repository.directory), "start", "HEAD", "HEAD~4"]) == 0
    assert json.loads(capsys.readouterr().out)["left"] == 4


def test_the_prompt_on_the_command_line(opened: Opened, with_history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = opened(with_history)
    where, planted = str(repository.directory), repository.head().commit
    assert main(["bisect", "-C", where, "--prompt", PROMPT, "--expect", ANSWER, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["found"] == planted
    assert [planted, True] in found["answers"]
    assert False in [says for _, says in found["answers"]]
    assert main(["bisect", "-C", where, "--prompt", PROMPT, "--expect", ANSWER]) == 0
    told = capsys.readouterr()
    assert f"the first commit at which the model says {ANSWER!r}: batch 3" in told.out
    assert f"  at {planted[:10]} it says {ANSWER!r}\n" in told.out
    assert "0 states were asked now" in told.err
    assert f"memitvc revert {planted[:10]}" in told.err
    assert main(["bisect", "-C", where, "--prompt", PROMPT]) == 2


def test_where_two_histories_part_is_asked_first(plain_repository: Repository) -> None:
    """As in git: a mended branch is good, and what both branches stand on is bad already."""
    commits = history(plain_repository, 4)
    record(plain_repository, [fact(9)], branch="mended", parents=[commits[1]])
    step = bisect.start(plain_repository, "main", ["mended"])
    assert step.candidate == commits[1]
    with pytest.raises(MemitVCError, match="in the history of a good commit"):
        bisect.mark(plain_repository, "bad")
    step = bisect.mark(plain_repository, "good")
    assert step.candidate in commits[2:]
    bisect.reset(plain_repository)
    step = bisect.start(plain_repository, "main", ["mended", commits[2]])
    assert step.candidate == commits[3] or step.found == commits[3]  # the fork is behind a good one
    bisect.reset(plain_repository)


def test_a_prompt_is_asked_where_two_histories_part(
    plain_repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked:
        """The model says it where City 1 is in."""

        def __init__(self, *_: object) -> None:
            self.known: dict[str, bool] = {}

        def says(self, state: LiveState) -> bool:
            return fact(1).id in state.edits

    monkeypatch.setattr(bisect_prompt_module, "model_of", lambda *_, **__: None)
    monkeypatch.setattr(bisect_prompt_module, "_Asked", Asked)
    commits = history(plain_repository, 4)
    switch_to_new(plain_repository, "mended", commits[1])
    revert(plain_repository, ["HEAD"])
    with pytest.raises(MemitVCError, match="where the two histories part"):
        bisect_prompt(plain_repository, "p", "t", good="mended", bad="main")
    found = bisect_prompt(plain_repository, "p", "t", good=commits[1], bad="mended")
    assert found.found == plain_repository.resolve("mended")
