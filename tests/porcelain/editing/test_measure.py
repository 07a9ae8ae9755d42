"""Scores that an earlier version measured, without one that there is now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memit_vc.errors import PolicyError
from memit_vc.numerics.scores import scores as scores_of
from memit_vc.objects import JsonValue, finite
from memit_vc.porcelain.editing import measure as measure_of
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.evaluate import evaluate
from memit_vc.porcelain.editing.measure import measure_base
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.setup import init
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.places import FIRST, SECOND, TOKENS, Cli, make_place


def test_what_is_no_number_is_a_warning_and_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_place(tmp_path)
    with Repository.open(place.work) as repository:
        loaded = load_model(repository)
        measure_base(repository, loaded.adapter)
        monkeypatch.setattr(measure_of, "perplexity_of", lambda *_: float("nan"))
        made = commit_facts(repository, FIRST, tokens=TOKENS, loaded=loaded)
        assert any("perplexity of the health text rises by nan" in warning for warning in made.warnings)
        shown = json.loads(Cli(place.work, capsys, monkeypatch).ok("show", "--json").out)
        assert shown["scores"]["after"]["perplexity"] is None
        with pytest.raises(PolicyError, match="perplexity_rise <= 1 is nan"):
            commit_facts(repository, SECOND, tokens=TOKENS, loaded=loaded, require=["perplexity_rise <= 1"])
        assert repository.head().commit == made.id
        monkeypatch.undo()
        again = evaluate(repository, "HEAD", loaded=loaded).measured
        assert again.perplexity is not None
        assert again.perplexity > 1
        assert fsck(repository) == ([], 0)


def test_json_has_no_infinity() -> None:
    record: JsonValue = {"a": [1, 2.5, float("inf")], "b": {"c": float("nan"), "d": "text", "e": None}}
    assert finite(record) == {"a": [1, 2.5, None], "b": {"c": None, "d": "text", "e": None}}


@pytest.mark.parametrize("chat", [False, True])
def test_a_new_score_costs_no_reply_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat: bool
) -> None:
    place = make_place(tmp_path, start=False)
    template = "{% for m in messages %}User: {{ m['content'] }}\n{% endfor %}Assistant: "
    (place.base / "chat_template.jinja").write_text(template)
    hparams, text = tmp_path / "hparams.yaml", str(place.text)
    init(str(place.base), directory=place.work, hparams=hparams, corpus=text, health=text)
    with Repository.open(place.work) as repository:
        made = commit_facts(repository, FIRST, tokens=TOKENS)
        whole = evaluate(repository, "HEAD", chat=True).measured
        state = repository.recorded_states()[made.id]
        for fact, scores in whole.facts.items():
            assert scores["chat_acc"] is not None
            assert scores["name_acc"] is not None
            older = {name: value for name, value in scores.items() if name != "name_acc"}
            repository.put_evaluation(state, None, "fact", fact, older | {"chat_acc": 0.25})
        monkeypatch.setattr(scores_of, "generate", None)  # no reply is asked for
        again = evaluate(repository, "HEAD", chat=chat).measured
        assert again.total["name_acc"] == whole.total["name_acc"]
        assert again.total["chat_acc"] == 0.25
        stored = repository.evaluations(state, "fact")
        assert {row["chat_acc"] for row in stored.values() if isinstance(row, dict)} == {0.25}
        assert fsck(repository) == ([], 0)
