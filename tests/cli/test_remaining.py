"""What is left of a stage, and what an interrupted one leaves."""

from __future__ import annotations

import re

import pytest

from memit_vc.cli import main
from memit_vc.cli.remaining import KEPT, Remaining
from memit_vc.porcelain.asking import ask as asking
from memit_vc.progress import Progress
from memit_vc.repository import Repository
from tests.support.paths import ROOT


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_minutes_are_left_by_the_pace_since_the_stage_began() -> None:
    clock = Clock()
    left = Remaining(clock)
    assert left.report("search z", 20, 120) == ""
    clock.now = 2.0
    assert left.report("search z", 21, 120) == ""  # too soon to say
    clock.now = 60.0
    assert left.report("search z", 40, 120) == "about 4 min left"
    clock.now = 285.0
    assert left.report("search z", 115, 120) == "under a minute left"
    assert left.report("search z", 120, 120) == ""
    assert left.report("sample text", 0, 0) == ""
    clock.now = 400.0
    assert left.report("second moments", 0, 1000) == ""
    clock.now = 460.0
    assert left.report("second moments", 10, 1000) == "about 1 h 39 min left"
    assert left.report("second moments", 0, 1000) == ""  # once more, from the start


def test_batches_are_parts_of_one_stage() -> None:
    clock = Clock()
    left = Remaining(clock)
    for number in range(4):
        clock.now = 10.0 * number
        assert left.report("sample text, batch 1", number, 4) == ""  # nobody knows yet how many there are
    clock.now = 40.0
    assert left.report("sample text, batch 2 of about 8", 0, 4) == "about 5 min left"
    clock.now = 80.0
    assert left.report("sample text, batch 3 of about 4", 0, 4) == "about 1 min left"
    assert "text sampled so far" in left.kept


def test_what_a_stage_leaves() -> None:
    left = Remaining(Clock())
    assert left.kept == ""
    left.report("search z", 3, 10)
    assert "finished group of up to 32 facts" in left.kept
    left.report("search z", 10, 10)
    left.report("insert", 0, 5)
    assert left.kept == ""


def test_each_stage_that_keeps_its_work_is_one_that_is_reported() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "memit_vc").rglob("*.py") if path.parent.name != "cli")
    for stage in KEPT:
        assert re.search(f'"{stage}[",]', sources), stage
    assert re.search(r"^CHUNK = 32$", sources, re.M)


def test_an_interrupt_says_what_is_kept(
    plain_repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*given: object, progress: Progress, **more: object) -> None:
        progress("search z", 1, 4)
        raise KeyboardInterrupt

    monkeypatch.setattr(asking, "ask", stop)
    assert main(["ask", "a", "-C", str(plain_repository.directory)]) == 130
    assert capsys.readouterr().err.strip().splitlines()[-2:] == [
        "interrupted: either everything was done or nothing; check with `memitvc op log`",
        KEPT["search z"],
    ]
