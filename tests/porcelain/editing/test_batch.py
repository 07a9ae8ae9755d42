"""A batch whose search is for residuals, from the commit to what is told of it; tiny models, few steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memit_vc.cli.show import _mean, _verdict
from memit_vc.errors import EngineError, UsageError
from memit_vc.numerics.edit import engine
from memit_vc.numerics.forward.lengths import asked_of
from memit_vc.numerics.search.targets import Targets
from memit_vc.objects import Fact, Probe
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.history.show import show
from memit_vc.porcelain.recomputing.reproduce import reproduce
from memit_vc.porcelain.recomputing.resolve import resolve_revert
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.models import FACTS
from tests.support.places import Place, make_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path, search_for="residuals", weight_decay=0.1, rehearse=0.2, v_num_grad_steps=4, retries=2)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many facts each search had."""
    counts: list[int] = []
    find = engine.find

    def counted(adapter: Any, facts: Sequence[Fact], **named: Any) -> Targets:
        counts.append(len(facts))
        return find(adapter, facts, **named)

    monkeypatch.setattr(engine, "find", counted)
    return counts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"phrasings": ("nobody is in",)}, "does not occur in phrasing"),
        ({"phrasings": (5,)}, "phrasings holds what is not text"),
        ({"paraphrases": (" ",)}, "or a blank one"),
        ({"target": ""}, "or a blank one"),
        ({"subject": "nobody"}, "does not occur in prompt"),
    ],
)
def test_a_fact_that_no_file_may_hold_is_refused(place: Place, change: dict[str, Any], said: str) -> None:
    with Repository.open(place.work) as repository:
        with pytest.raises(UsageError, match=f"fact 2: .*{said}"):
            commit_facts(repository, [FACTS[0], replace(FACTS[1], **change)])
        assert fsck(repository) == ([], 0)


def test_a_blank_neighbour_of_an_earlier_time_is_kept_and_not_asked(place: Place) -> None:
    """Edit files once gave some, so a reader takes them."""
    blank = replace(FACTS[0], neighbourhood=(Probe(prompt=" "), Probe(prompt="Sudland is in", answer="Peru")))
    with Repository.open(place.work) as repository:
        made = commit_facts(repository, [blank])
        assert made.after is not None
        assert repository.facts([blank.id])[blank.id] == blank
        assert [prompt for prompt, _ in asked_of(blank)].count(" ") == 0
        assert [prompt for prompt, _ in asked_of(blank)].count("Sudland is in") == 2
        assert fsck(repository) == ([], 0)


def test_a_try_that_changes_nothing_is_not_repeated(
    place: Place, searched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Repository.open(place.work) as repository:
        loaded = load_model(repository)
        monkeypatch.setattr("memit_vc.porcelain.editing.batch.unanswered", lambda *_: [1, 2])
        made = commit_facts(repository, FACTS[:4], loaded=loaded, scores=False)
        assert [fact.subject for fact in made.failing] == [FACTS[1].subject, FACTS[2].subject]
        assert searched == [4, 2]  # the second try would be the first once more
        assert fsck(repository) == ([], 0)


def test_tries_that_help_go_on(place: Place, searched: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([[0, 1, 2], [1, 2], []])
    with Repository.open(place.work) as repository:
        loaded = load_model(repository)
        monkeypatch.setattr("memit_vc.porcelain.editing.batch.unanswered", lambda *_: next(answers))
        made = commit_facts(repository, FACTS[:4], loaded=loaded, scores=False)
        assert searched == [4, 3, 2]
        assert made.failing == ()
        assert made.steps == 4 * 4 + 3 * 4 + 2 * 4
        assert fsck(repository) == ([], 0)


@pytest.mark.parametrize("search_for", ["z", "residuals"])
def test_a_try_that_diverges_leaves_what_there_was(
    place: Place, monkeypatch: pytest.MonkeyPatch, search_for: str
) -> None:
    def diverges(*_: object, **__: object) -> None:
        raise EngineError("the loss of fact 1 is not a number", hint="Lower v_lr.")

    monkeypatch.setattr("memit_vc.porcelain.editing.batch.unanswered", lambda *_: [1])
    monkeypatch.setattr("memit_vc.porcelain.editing.batch.improve_edit", diverges)
    with Repository.open(place.work) as repository:
        hparams = repository.hparams().replace(search_for=search_for, rehearse=0)
        made = commit_facts(repository, FACTS[:2], hparams=hparams, scores=False)
        assert [fact.subject for fact in made.failing] == [FACTS[1].subject]
        assert any("another try was given up" in warning for warning in made.warnings)
        assert repository.head().commit == made.id
        assert fsck(repository) == ([], 0)


@pytest.mark.parametrize("rehearse", [0.0, 0.2])
def test_what_earlier_searches_left_changes_no_patch(place: Place, rehearse: float) -> None:
    """Which live facts are rehearsed goes by all that a record says: so does what is kept."""
    with Repository.open(place.work) as repository:
        loaded = load_model(repository)
        hparams = repository.hparams().replace(rehearse=rehearse)
        commit_facts(repository, FACTS[:7], hparams=hparams, loaded=loaded, scores=False)
        first = replace(FACTS[7], ground_truth="Norland")
        commit_facts(repository, [first], hparams=hparams, loaded=loaded, scores=False)
        repository.undo()
        commit_facts(repository, [FACTS[7]], hparams=hparams, loaded=loaded, scores=False)
        kept = len(list((repository.root / "cache" / "z").rglob("*.safetensors")))
        assert kept == (3 if rehearse else 2)
        assert reproduce(repository, loaded=loaded).equal
        assert fsck(repository) == ([], 0)


def test_a_commit_is_reproduced_and_taken_out(place: Place) -> None:
    with Repository.open(place.work) as repository:
        loaded = load_model(repository)
        first = commit_facts(repository, FACTS[:3], loaded=loaded)
        commit_facts(repository, FACTS[3:6], loaded=loaded)
        assert reproduce(repository, loaded=loaded).equal
        why = show(repository, first.id).added[0].why
        assert why is not None
        assert why["left"] is None
        assert 0 < why["leverage"][str(repository.hparams().layers[0])] < 1
        resolve_revert(repository, [first.id], loaded=loaded)
        assert reproduce(repository, loaded=loaded).equal
        revert(repository, ["HEAD"])
        assert fsck(repository) == ([], 0)


@pytest.mark.parametrize(("leverage", "said"), [(0.2, "the solve: lower λ or more layers"), (0.5, "the search: ")])
def test_why_a_fact_failed_goes_by_its_leverage(leverage: float, said: str) -> None:
    assert _verdict({"rewrite_acc": 0.0}, leverage, None, None).startswith(said)
    assert _verdict({"rewrite_acc": 0.0}, leverage, None, None, sink=True).startswith("an attention sink")
    assert _verdict({"rewrite_acc": 1.0}, leverage, None, None) == ""
    failing = {"rewrite_acc": 1.0, "paraphrase_acc": 0.0}
    assert _verdict(failing, leverage, 0.9, None) == "no paraphrase is answered: give phrasings"
    assert _mean({"1": None, "2": leverage}) == leverage  # a figure that was no number
    assert _mean({"1": None}) is None


def test_what_is_not_used_is_told(place: Place) -> None:
    with Repository.open(place.work) as repository:
        hparams = repository.hparams().replace(passes=2)
        made = commit_facts(repository, FACTS[:2], hparams=hparams, scores=False)
        assert "passes is 2, which a search for residuals does not use (search_for: z does)" in made.warnings
        published = repository.hparams().replace(search_for="z")
        made = commit_facts(repository, FACTS[2:4], hparams=published, scores=False)
        assert "rehearse is 0.2: only a search for residuals uses it (search_for: residuals)" in made.warnings
        assert fsck(repository) == ([], 0)


def test_the_live_facts_are_rehearsed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed: list[list[str]] = []
    find = engine.find

    def watched(adapter: Any, facts: Sequence[Fact], **named: Any) -> Targets:
        rehearsed.append([fact.subject for fact in named["earlier"]])
        return find(adapter, facts, **named)

    monkeypatch.setattr(engine, "find", watched)
    answers = iter([[], [1], []])
    monkeypatch.setattr("memit_vc.porcelain.editing.batch.unanswered", lambda *_: next(answers))
    with Repository.open(place.work) as repository:
        loaded = load_model(repository)
        commit_facts(repository, FACTS[:2], loaded=loaded, scores=False)
        commit_facts(repository, FACTS[2:5], loaded=loaded, scores=False)
        live = [fact.subject for fact in sorted(FACTS[:2], key=lambda fact: fact.id)]
        # the try again also keeps the facts of its own batch that are answered
        assert rehearsed == [[], live, [*live, FACTS[2].subject, FACTS[4].subject]]
        assert fsck(repository) == ([], 0)
