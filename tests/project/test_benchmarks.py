"""The benchmarks run at small sizes, both sides agree, and results reach the documentation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import commit, edits, history, large, moments, solve, z
from benchmarks.facts import some_facts
from benchmarks.places import Options
from benchmarks.report import Report, Row, show, write_documentation
from tests.support.models import tiny


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    model = tiny("llama", tmp_path_factory.mktemp("model"))
    return Options(model=model, facts=2, tokens=1500, quick=True)


def test_z_agrees_with_the_reference(options: Options) -> None:
    fixed, loss, argmax, default = z.run(options).rows
    assert fixed.difference is not None
    assert fixed.difference < 1e-5
    assert fixed.more["steps"] == 6  # two facts, three steps
    assert loss.difference is not None
    assert loss.difference < 1e-5
    assert all("rewrite_acc" in row.more for row in (argmax, default))


def test_statistics_agree_with_the_reference(options: Options) -> None:
    (row,) = moments.run(options).rows
    assert row.difference is not None
    assert row.difference < 1e-6


def test_solve_agrees_with_the_dense_system() -> None:
    compared = [row for row in solve.run(Options(quick=True)).rows if row.difference is not None]
    assert len(compared) == 2
    assert all(row.difference < 1e-8 for row in compared if row.difference is not None)


def test_commit_in_its_own_process(options: Options) -> None:
    time, memory, *_ = commit.run(options).rows
    assert time.ratio is not None
    assert time.ratio > 1  # the search is a part of the commit
    assert memory.more["peak of the process, MB"] >= memory.more["weights, MB"]


def test_edits_are_taken_back_exactly(options: Options) -> None:
    rows = {row.case: row for row in edits.run(replace(options, facts=None)).rows}
    for exact in ("revert of the revert: equal hashes", "all reverted: verified as the base"):
        assert rows[exact].ours == 1.0
    assert edits.run_bfloat16(replace(options, facts=None)).settings["dtype"] == "bfloat16"


def test_history_is_one_batch_before_snapping(options: Options) -> None:
    rows = {row.case: row for row in history.run(replace(options, facts=None)).rows}
    assert rows["sum of the patches against one solve for all facts, before rounding"].kept
    assert rows["closed-form removal of commit 2 against one solve without its facts, before rounding"].kept


def test_rules_and_a_large_shape_run_at_small_size(options: Options) -> None:
    loss, argmax = edits.run_rules(replace(options, facts=None)).rows
    assert loss.more["steps of a fact"] >= argmax.more["steps of a fact"] >= 1
    speed, same, _ = large.run(options).rows
    assert speed.ours > 0
    assert same.kept


def test_facts_are_enough_and_distinct() -> None:
    facts = some_facts(115)
    assert len({fact.question for fact in facts}) == 115
    assert all(fact.subject_span and fact.target != fact.ground_truth for fact in facts)
    with pytest.raises(ValueError, match="--edits"):
        some_facts(1000)


def test_results_reach_the_documentation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("a case", 2.0, 30.0, difference=1e-9, goal=("≥", 20.0), more={"steps": 5})
    report = Report("name", "what it is", "the other", {"facts": 3}, [row, replace(row, inverse=True, goal=("≤", 1.0))])
    show(report)
    assert "missed" in capsys.readouterr().out
    written = json.loads(report.write(tmp_path).read_text())
    assert [each["ratio"] for each in written["rows"]] == [15.0, 2.0 / 30.0]
    assert [each["kept"] for each in written["rows"]] == [False, True]
    assert written["machine"]["threads"] >= 1
    (tmp_path / "other.json").write_text("{}")  # results of another shape are left alone
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n")
    for _ in range(2):
        write_documentation(tmp_path, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("-->\nafter\n")
    assert "old" not in text
    assert text.count("| a case |") == 2
    assert "≥ 20 (missed)" in text
