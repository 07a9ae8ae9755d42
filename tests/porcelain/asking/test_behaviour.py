"""What the model says at two revisions, and the scores of live facts then and now."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from memit_vc.cli import main
from memit_vc.numerics.scores.likelihood import continuations
from memit_vc.objects import Probe
from memit_vc.porcelain.asking.behaviour import behaviour
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.evaluate import measured_facts
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.state import LiveState
from tests.support.models import FACTS
from tests.support.opened import Opened

OWN = "The museum is located in"


def test_probes_of_the_facts_that_differ_at_both_revisions(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    probed = replace(
        FACTS[6],
        ground_truth="Mira Holt",
        paraphrases=("Who directed The Winter Harbour?",),
        neighbourhood=(Probe(prompt="The film was directed by", answer="a young woman"),),
    )
    tip = commit_facts(repository, [probed], scores=False, loaded=loaded).id
    before = repository.resolve("HEAD~1")
    found = behaviour(repository, before, tip, prompts=[OWN], loaded=loaded)
    assert [entry.kind for entry in found.asked] == ["prompt", "paraphrase", "neighbour", "given"]
    prompt, _, neighbour, given = found.asked
    assert (prompt.fact, prompt.new, prompt.old) == (probed, probed.target, "Mira Holt")
    assert neighbour.old == "a young woman"
    assert (given.new, given.p_new, given.old, given.p_old) == (None, None, None, None)
    assert prompt.p_new is not None
    assert prompt.p_new[1] > prompt.p_new[0]
    for side, commit in enumerate((before, tip)):
        with loaded.holding(LiveState.at(repository, commit)) as adapter:
            wanted = continuations(adapter, [(probed.prompt, probed.target)])[0]
        assert prompt.p_new[side] == pytest.approx(math.exp(-wanted.nll * len(wanted.predicted)), rel=1e-4)


def test_a_changed_target_is_compared_with_the_earlier_one(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    other = replace(FACTS[0], target="Madrid", ground_truth=None)
    tip = commit_facts(repository, [other], on_conflict="theirs", scores=False, loaded=loaded).id
    (asked,) = behaviour(repository, repository.resolve("HEAD~1"), tip, loaded=loaded).asked
    assert (asked.new, asked.old) == ("Madrid", FACTS[0].target)
    same = behaviour(repository, tip, tip, loaded=loaded)
    assert same.asked == ()


def test_scores_then_and_now(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    made = commit_facts(repository, [FACTS[6]], loaded=loaded)
    revert(repository, ["HEAD~1"])
    live = repository.live_facts(repository.head().commit)
    found = {each.entry.fact.id: each for each in measured_facts(repository, live, loaded=loaded)}
    assert len(found) == 5
    mine = found[FACTS[6].id]
    assert mine.entry.commit == made.id
    assert mine.then is not None
    assert mine.then["nll"] != mine.now["nll"]
    assert found[FACTS[0].id].then is None  # made without scores
    assert measured_facts(repository, []) == []


def test_the_commands(opened: Opened, with_history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = opened(with_history)
    where = str(repository.directory)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{OWN}\n\n", encoding="utf-8")
    assert main(["diff", "-C", where, "--behaviour", "--prompts", str(prompts), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [entry["prompt"] for entry in record["behaviour"]] == [FACTS[4].prompt, FACTS[5].prompt, OWN]
    assert main(["diff", "-C", where, "HEAD~3", "HEAD~2", "--behaviour"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("+2 facts")
    assert "p(new)" in out
    prompts.write_bytes(b"\xff\xfe\x00")
    assert main(["diff", "-C", where, "--prompts", str(prompts)]) == 2
    assert "UTF-8" in capsys.readouterr().err
    assert main(["facts", "-C", where, "--measure", "--json", "--subject", "sarn"]) == 0
    (fact,) = json.loads(capsys.readouterr().out)
    assert fact["scores_at_commit"] is None
    assert fact["scores_now"]["rewrite_acc"] == 1.0
    assert main(["facts", "-C", where, "--measure"]) == 0
    assert "– → 1.0" in capsys.readouterr().out


def test_measured_facts_can_be_committed_elsewhere(
    opened: Opened, with_history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from memit_vc.edits import read_edits

    repository = opened(with_history)
    assert main(["facts", "-C", str(repository.directory), "--measure", "--json"]) == 0
    edits = tmp_path / "facts.json"
    edits.write_text(capsys.readouterr().out, encoding="utf-8")
    assert [fact.id for fact in read_edits(str(edits)).facts] == [fact.id for fact in FACTS[:6]]
