"""What a report says: who made what wrong, which facts are gone, how states differ, what commits did to the weights."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import event

from memit_vc.cli import main
from memit_vc.numerics.exact.factored import LowRank
from memit_vc.objects import JsonValue
from memit_vc.page.block import block
from memit_vc.page.data import Report
from memit_vc.page.render import GENERATOR, asking, render, taking_out
from memit_vc.porcelain.history.report import LONGEST, gather
from memit_vc.porcelain.history.report_weights import interference
from memit_vc.porcelain.history.scores_at_commit import came_in
from memit_vc.porcelain.history.show import show
from memit_vc.porcelain.sets.squash import squash
from memit_vc.porcelain.sharing.card import gather_card
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from tests.support import synthetic, told
from tests.support.opened import Opened


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with told.story(tmp_path / "work") as made:
        yield made
        assert made.fsck() == []


@pytest.fixture
def report(repository: Repository) -> Report:
    return gather(repository)


def test_each_fact_says_whether_it_is_live_and_what_made_it_wrong(report: Report) -> None:
    by_subject = {fact.subject: fact for fact in report.facts}
    subjects = {number: row.subject for number, row in enumerate(report.commits)}
    status = {subject: fact.status for subject, fact in by_subject.items()}
    assert status == {
        **dict.fromkeys((f"City {n}" for n in (1, 2, 3, 4, 5, 8)), "live"),
        "City 6": "reverted",
        "City 7": "reverted",
    }
    assert [subjects[n] for n in by_subject["City 1"].broke["neighbours"]] == ["Two more cities"]
    assert [subjects[n] for n in by_subject["City 2"].broke["prompt"]] == ["A third batch"]
    gone = by_subject["City 6"].gone
    assert gone is not None
    assert subjects[gone].startswith("Revert")
    assert [fact.subject for fact in report.broken] == ["City 2"]
    assert [fact.subject for fact in report.never] == ["City 3"]
    assert [fact.subject for fact in report.spoiled] == ["City 1"]
    assert [row.subject for row in report.commits if row.lost] == ["From a side", "One to be taken out again"]


def test_four_buckets(report: Report) -> None:
    found = {(each.older, each.newer): each for each in report.comparisons}
    taken = found["before each fact's commit", "right after it"]
    assert len(taken.fixed) == 2 * 7 - 2
    assert {report.facts[case.fact].subject for case in taken.failing} == {"City 3"}
    assert taken.regressed == ()


def test_a_neighbour_that_comes_right_again_has_no_culprit(tmp_path: Path) -> None:
    with synthetic.init(tmp_path / "work") as repository:
        teller = told.Teller(repository)
        fact = told.asked(1)
        teller.commit([fact], "first")
        for number, right in enumerate((0.0, 1.0)):
            teller.commit([told.asked(number + 2)], "later")
            teller.measured("HEAD", {fact.id: told.scores(neighbour=right)})
        found = {each.subject: each for each in gather(repository).facts}
        assert found["City 1"].broke == {}
        assert repository.fsck() == []


def test_a_commit_is_accused_only_if_the_state_before_it_was_measured(tmp_path: Path) -> None:
    with synthetic.init(tmp_path / "work") as repository:
        teller = told.Teller(repository)
        fact, other = told.asked(1), told.asked(2, subject="It's $HOME")
        teller.commit([fact, other], "first")
        for number in (3, 4, 5):
            teller.commit([told.asked(number)], f"later {number}")
        teller.measured("HEAD", {fact.id: told.scores(right=0.0), other.id: told.scores(neighbour=0.0)})
        report = gather(repository)
        found = {each.subject: each.broke for each in report.facts}
        named = [report.commits[n] for n in found["City 1"]["prompt"]]
        assert [row.subject for row in named] == ["later 3", "later 4", "later 5"]
        page = render(report)
        ends = f"--good {named[0].parents[0][:10]} --bad {named[2].id[:10]}"
        assert f"--prompt &#39;City 1 is located in the country of&#39; --expect &#39;Newland 1&#39; {ends}" in page
        assert "It&#39;&#34;&#39;&#34;&#39;s $HOME" in page  # quoted for a shell, then for HTML
        summary = page.partition('id="history"')[0]
        assert "memitvc revert" not in summary
        teller.measured("HEAD~1", {fact.id: told.scores(), other.id: told.scores(neighbour=0.0)})
        found = {each.subject: each.broke for each in gather(repository).facts}
        assert [report.commits[n].subject for n in found["City 1"]["prompt"]] == ["later 5"]
        assert [report.commits[n].subject for n in found["It's $HOME"]["neighbours"]] == ["later 3", "later 4"]
        assert repository.fsck() == []


def test_a_neighbour_that_was_edited_itself_is_said_to_be(tmp_path: Path) -> None:
    with synthetic.init(tmp_path / "work") as repository:
        teller = told.Teller(repository)
        fact = told.asked(1)
        neighbour = fact.neighbourhood[0]
        edit = replace(told.asked(2), prompt=neighbour.prompt, subject="The town beside City 1")
        teller.commit([fact], "first")
        teller.commit([edit], "second")
        teller.measured("HEAD", {fact.id: told.scores()})
        teller.commit([told.asked(3)], "third")
        teller.measured("HEAD", {fact.id: told.scores(neighbour=0.0)})
        report = gather(repository)
        assert report.edited_neighbour(report.facts[0]) is None  # it was right after the edit
        assert "edits this very prompt" not in render(report)
        teller.measured("HEAD~1", {fact.id: told.scores(neighbour=0.0)})
        report = gather(repository)
        assert report.edited_neighbour(report.facts[0]) == (neighbour.prompt, neighbour.answer, report.facts[1])
        summary = render(report).partition('id="history"')[0]
        second = report.commits[report.facts[1].commit]
        assert "edits this very prompt" in summary
        assert f"memitvc revert {second.id[:10]} --fact {edit.id[:10]}" in summary
        assert "memitvc bisect" not in summary
        assert f"memitvc ask -n 5 -- &#39;{neighbour.prompt}&#39;" in summary
        assert asking("-") is None
        assert repository.fsck() == []


def test_weights_are_the_norms_of_the_changes(repository: Repository, report: Report) -> None:
    assert report.weights.note is not None  # the base exists in name only
    for number, row in report.weights.rows:
        made = repository.commit(report.commits[number].id)  # type: ignore[arg-type]
        for weight, norm in zip(repository.weights(), row, strict=True):
            sides = [LiveState(repository, columns).terms(weight) for columns in (made.adds, made.removes)]
            matrices = [
                sum((t.matrix() for t in side if isinstance(t, LowRank)), np.zeros((weight.d_out, weight.d_in)))
                for side in sides
            ]
            assert norm == pytest.approx(float(np.linalg.norm(matrices[0] - matrices[1])), rel=1e-6)


def test_facts_without_keys_are_left_out_of_interference_and_counted(repository: Repository) -> None:
    found = interference(LiveState.of_head(repository), {})
    assert (found.pairs, found.compared) == ((), 0)
    assert found.note is not None
    assert found.note.startswith("6 facts have no keys")


def test_interference_is_the_share_of_the_own_edit(place_with_keys: Repository) -> None:
    state = LiveState.of_head(place_with_keys)
    numbers = {source.fact: number for number, source in enumerate(state.sources)}
    found = interference(state, numbers)
    assert found.compared == len(state.sources)
    weights = {weight.layer: weight for weight in state.touched}
    from memit_vc.numerics.exact.constraints import read_constraints
    from memit_vc.numerics.exact.patchfile import read_weight

    def column(fact: str, layer: int) -> tuple[LowRank, np.ndarray]:
        source = next(each for each in state.sources if each.fact == fact)
        patch = place_with_keys.patch(source.patch)
        assert patch.constraints is not None
        keys = read_constraints(place_with_keys.object_path(patch.constraints)).keys[weights[layer].name]
        term = read_weight(place_with_keys.patch_path(source.patch), [source.position], weights[layer].name)
        assert isinstance(term, LowRank)
        return term, keys[:, source.position].astype(np.float64)

    by_number = {number: fact for fact, number in numbers.items()}
    for pair in found.pairs[:5]:
        own, key = column(by_number[pair.at], pair.layer)
        other, _ = column(by_number[pair.by], pair.layer)
        share = np.linalg.norm(other.matrix() @ key) / np.linalg.norm(own.matrix() @ key)
        assert pair.share == pytest.approx(float(share), rel=1e-3)


def test_a_patch_that_is_missing_leaves_the_rest_of_the_report(opened: Opened, with_history: Path) -> None:
    original = opened(with_history)
    state = LiveState.of_head(original)
    whole = gather(original)
    gone = state.sources[0].patch
    path = original.patch_path(gone)
    path.rename(path.with_suffix(".kept"))
    with Repository.open(original.directory) as repository:
        found = gather(repository)
        left_out = [source for source in state.sources if source.patch == gone]
        assert found.interference.compared == whole.interference.compared - len(left_out)
        assert str(found.interference.note).startswith(f"{len(left_out)} facts have no keys here")
        assert [fact.id for fact in found.facts] == [fact.id for fact in whole.facts]
    path.with_suffix(".kept").rename(path)


def test_a_fact_leaves_by_being_solved_again_only_if_it_was(opened: Opened, with_history: Path) -> None:
    """A plain squash keeps its columns: taking one out is exact, and needs no model."""
    repository = opened(with_history)
    squash(repository)
    report = gather(repository)
    row = next(fact for fact in report.facts if fact.status == "live")
    before = len(repository.live_facts(repository.head().commit))
    command = taking_out(report, row)
    assert "--resolve" not in command
    assert main([*shlex.split(command)[1:], "-C", str(repository.directory)]) == 0
    assert len(repository.live_facts(repository.head().commit)) == before - 1
    solved = replace(report, commits=tuple(replace(each, solved=True) for each in report.commits))
    assert "--resolve" in taking_out(solved, row)


@pytest.fixture
def place_with_keys(with_history: Path) -> Iterator[Repository]:
    with Repository.open(with_history) as made:
        yield made


def test_the_data_block_cannot_be_left_and_is_whole(report: Report) -> None:
    text = block(report)
    assert not set("<>&") & set(text)
    data = json.loads(text)
    assert len(data["facts"]) == len(report.facts)
    for row, fact in zip(data["facts"], report.facts, strict=True):
        found = {**data["fact_defaults"], **dict(zip(data["fact_fields"], row, strict=False))}
        assert (found["id"], found["status"], found["broke"]) == (
            fact.id[:16],
            fact.status,
            {k: [*v] for k, v in fact.broke.items()},
        )
        assert (found["gone"], found["commit"], found["generation"]) == (fact.gone, fact.commit, [])

        def asked(number: int, subject: str = fact.subject) -> str:
            return subject.join(data["texts"][number])

        assert asked(found["prompt"]) == fact.prompt
        assert [asked(number) for number in found["paraphrases"]] == list(fact.paraphrases)
        assert [(asked(n), *(answer or [fact.old])) for n, *answer in found["neighbours"]] == list(fact.neighbours)
        measured = [(at, dict(zip(data["measures"], values, strict=True))) for at, *values in found["points"]]
        assert measured == [
            (point.commit, {name: point.get(name) for name in data["measures"]}) for point in fact.points
        ]
        assert (fact.why is None) == (found["why"] is None)
    assert [[report.commits[n].id for n in row["parents"]] for row in data["commits"]] == [
        list(row.parents) for row in report.commits
    ]
    for row, commit in zip(data["commits"], report.commits, strict=True):
        for side in ("before", "after"):
            known = dict(zip(data["totals"], row.get(side, []), strict=False))
            assert {k: v for k, v in known.items() if v is not None} == {
                k: round(v, 3) for k, v in getattr(commit, side).items() if v is not None
            }


def test_a_local_base_is_not_named(repository: Repository, report: Report) -> None:
    assert repository.config.base not in render(report)


def test_a_message_is_clipped(tmp_path: Path) -> None:
    with synthetic.init(tmp_path / "work") as repository:
        synthetic.record(repository, [synthetic.fact(1)], message="x" * 100_000)
        (row, _) = gather(repository).commits
        assert len(row.message) < LONGEST + 100
        assert "100,000 characters" in row.message
        assert repository.fsck() == []


def test_as_many_statements_for_long_histories(tmp_path: Path) -> None:
    counts = []
    for commits in (3, 9):
        with told.long_history(tmp_path / str(commits), commits=commits, facts=2) as repository:
            seen: list[str] = []
            event.listen(
                repository.database.engine, "before_cursor_execute", lambda *given, into=seen: into.append(given[2])
            )
            gather(repository)
            counts.append(len(seen))
            assert repository.fsck() == []
    assert counts[0] == counts[1]


def test_the_command_replaces_reports_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told.story(tmp_path / "work").close()
    page, other = tmp_path / "page.html", tmp_path / "other.html"
    other.write_text("mine")
    where = ["-C", str(tmp_path / "work")]
    for _ in range(2):
        assert main(["report", *where, "-o", str(page), "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
    assert GENERATOR in page.read_text(encoding="utf-8")
    assert (record["live"], record["commits"], record["bytes"]) == (6, 7, page.stat().st_size)
    assert len(record["neighbours_made_wrong"]) == 1
    assert main(["status", *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["commits"] == record["commits"]
    assert main(["report", *where, "-o", str(other)]) == 2
    assert "exists and is not a report" in capsys.readouterr().err
    assert other.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.html", "page.html", "work"]


def test_a_damaged_provenance_leaves_the_rest(opened: Opened, with_history: Path, tmp_path: Path) -> None:
    shutil.copytree(with_history, tmp_path / "damaged")
    with Repository.open(tmp_path / "damaged") as repository:
        blob = repository.commit(repository.head().commit).provenance
        assert blob is not None
        path = repository.object_path(blob)
        path.chmod(0o644)
        path.write_bytes(b"{}")
        assert len(gather(repository).commits) > 1
        assert show(repository).provenance is None


def test_scores_of_nothing_are_shown_as_none(
    plain_repository: Repository, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = synthetic.record(plain_repository, [synthetic.fact(1)])
    state = plain_repository.state_id(plain_repository.state(made.id))
    plain_repository.put_evaluation(state, made.id, "commit", made.id, {"before": {}, "after": {}})
    where = ["-C", str(plain_repository.directory)]
    assert main(["show", *where, "--why"]) == 0
    assert "before" not in capsys.readouterr().out
    assert main(["show", *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == {"before": {}, "after": {}}
    assert main(["report", *where, "-o", str(tmp_path / "report.html")]) == 0
    assert came_in(plain_repository, [made.id]) == {made.id: {}}
    assert gather_card(plain_repository, made.id).scores == ()


@pytest.mark.parametrize("value", [[1], {"before": {}}, {"before": {}, "after": {"total": {"ES": "all"}}}])
def test_scores_of_another_form_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, value: JsonValue) -> None:
    with synthetic.init(tmp_path / "work") as repository:
        made = synthetic.record(repository, [synthetic.fact(1)])
        state = repository.state_id(repository.state(made.id))
        repository.put_evaluation(state, made.id, "commit", made.id, value)
    where = ["-C", str(tmp_path / "work")]
    for command in (["show"], ["report", "-o", str(tmp_path / "report.html")]):
        assert main([*command, *where]) == 12
        said = capsys.readouterr().err
        assert f"error: meta.db: evaluation {made.id[:10]} is damaged: " in said
        assert "hint: Run `memitvc fsck`" in said
    assert main(["fsck", *where]) == 12
    assert f"evaluation {state}: evaluation {made.id[:10]} is damaged" in capsys.readouterr().out
