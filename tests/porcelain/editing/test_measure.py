"""Scores that an earlier version measured, without one that there is now."""

from __future__ import annotations

from pathlib import Path

import pytest

from memit_vc.numerics.scores import scores as scores_of
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.evaluate import evaluate
from memit_vc.porcelain.setup import init
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.places import FIRST, TOKENS, make_place


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
