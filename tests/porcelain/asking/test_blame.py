"""blame: the edit that answers a prompt is named first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from memit_vc.cli import main
from memit_vc.errors import EngineError, MemitVCError
from memit_vc.numerics.scores.influence import keys_at
from memit_vc.porcelain.asking.blame import blame
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.state import LiveState
from tests.support.models import FACTS
from tests.support.opened import Opened


def test_each_fact_is_blamed_for_its_own_prompt(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    commits = [repository.resolve(f"HEAD~{2 - number}") for number in range(3)]
    for number, fact in enumerate(FACTS[:6]):
        found = blame(repository, fact.prompt, loaded=loaded)
        assert (found.subject, found.facts[0].facts) == (fact.subject, (fact,))
        assert found.facts[0].commit == found.commits[0].commit == commits[number // 2]
        assert len(found.facts) == 6
        assert [entry.influence for entry in found.facts] == sorted((e.influence for e in found.facts), reverse=True)


def test_influence_is_the_norm_of_the_update_at_the_key(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    fact, tip = FACTS[0], repository.head().commit
    state = repository.state(tip)
    found = blame(repository, fact.prompt, subject=fact.subject, loaded=loaded)
    from memit_vc.numerics.exact.materialise import delta

    with loaded.holding(LiveState(repository, state)) as adapter:
        keys = keys_at(adapter, fact.prompt, fact.subject, [1, 2])
        for layer in (1, 2):
            weight = loaded.weights[layer]
            update = delta(LiveState(repository, found.facts[0].columns).terms(weight), weight)
            wanted = (update @ keys[layer]).norm() / (adapter.weight(layer).double() @ keys[layer]).norm()
            assert found.facts[0].layers[layer] == pytest.approx(float(wanted), rel=1e-9)


def test_leaving_the_guilty_out_costs_the_answer_most(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    fact = FACTS[4]
    found = blame(repository, fact.prompt, subject=fact.subject, measure=True, answer=fact.target, limit=3)
    assert found.answer == fact.target
    measured = [e.log_probability for e in found.commits]
    assert found.log_probability is not None
    assert measured[0] is not None
    assert measured[0] == min(value for value in measured if value is not None) < found.log_probability
    assert [e.log_probability is None for e in found.facts] == [False] * 3 + [True] * 3


def test_a_commit_that_was_put_back_keeps_the_blame(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    planted = repository.resolve("HEAD~1")
    revert(repository, [planted])
    revert(repository, ["HEAD"])
    found = blame(repository, FACTS[2].prompt, subject=FACTS[2].subject)
    assert found.commits[0].commit == planted


def test_nothing_to_blame(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    with pytest.raises(MemitVCError, match="no edit is live"):
        blame(repository, "anything", revision="HEAD~3")
    with pytest.raises(EngineError, match="does not occur"):
        blame(repository, "anything", subject="Norland")


def test_the_subject_that_nobody_named(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)

    def found(prompt: str) -> str | None:
        return blame(repository, prompt, loaded=loaded).subject

    fact = FACTS[0]
    assert found(fact.prompt + " ") == fact.subject
    assert found(fact.prompt.replace(" ", "\u200b ", 1)) == fact.subject
    assert found(f"people of {fact.subject} speak") == fact.subject
    assert found(f"people of {fact.subject}ia say") is None
    assert found("Where does Denny Herzig play") == "Denny Herzig"
    assert found("Quantum mechanics was founded by") is None


def test_the_command(opened: Opened, with_history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = opened(with_history)
    where = str(repository.directory)
    prompt = FACTS[0].prompt
    assert main(["blame", "-C", where, prompt, "--json", "--measure", "-n", "2"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["subject"] == "Norland"
    assert record["facts"][0]["facts"][0]["id"] == FACTS[0].id
    assert isinstance(record["log_probability"], float)
    assert main(["blame", "-C", where, prompt, "-n", "2"]) == 0
    out = capsys.readouterr().out
    assert "the last token of 'Norland'" in out
    assert main(["blame", "-C", where, prompt, "HEAD~3"]) == 1
    assert "no edit is live" in capsys.readouterr().err
    assert torch.is_grad_enabled()
