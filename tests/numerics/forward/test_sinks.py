"""Subjects that are attention sinks: how they are found, and that they are edited behind other text only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from memit_vc.errors import EngineError
from memit_vc.numerics.edit import engine
from memit_vc.numerics.edit.engine import Edit, compute_edit, search_targets
from memit_vc.numerics.edit.keys import Frontier
from memit_vc.numerics.forward import sinks
from memit_vc.numerics.forward.rows import prompt_rows, search_rows
from memit_vc.numerics.forward.sinks import PLAIN, anchors, contexts
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.objects import Fact
from memit_vc.porcelain.editing import batch
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.models import FACTS, hparams_for, load, tiny
from tests.support.places import FIRST, TOKENS, Cli, make_place

BEHIND, LATER = Template("The first report. "), Template("In 1987, it was said. ")
GROUPS = [[PLAIN], [BEHIND, LATER]]
FLAT = [PLAIN, BEHIND, LATER]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load(tiny("llama", tmp_path_factory.mktemp("llama")))


def lengths(adapter: ModelAdapter, facts: Sequence[Fact], template: Template, layer: int) -> list[float]:
    """‖h‖ at each subject's last token, text by text, from the whole model."""
    found = []
    with torch.no_grad():
        for row in prompt_rows(adapter.tokenizer, facts, template):
            states = adapter.model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states
            found.append(float(states[layer + 1][0, row.pivot].norm()))
    return found


def test_what_is_longer_at_the_plain_prompt(adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = zip(lengths(adapter, FACTS, PLAIN, 1), lengths(adapter, FACTS, BEHIND, 1), strict=True)
    ratios = [plain / other for plain, other in pairs]
    between = sum(sorted(ratios)[len(ratios) // 2 - 1 :][:2]) / 2
    monkeypatch.setattr(sinks, "_TIMES", between)
    expected = [BEHIND if ratio > between else PLAIN for ratio in ratios]
    assert len(set(expected)) == 2
    assert anchors(adapter, FACTS, FLAT, 1) == anchors(adapter, FACTS, FLAT, 1, max_tokens=20) == expected
    assert anchors(adapter, FACTS, [PLAIN], 1) == [PLAIN] * len(FACTS)  # there is no other text to stand behind
    assert anchors(adapter, [], FLAT, 1) == []


def test_rows_of_a_sink_stand_behind_text(adapter: ModelAdapter) -> None:
    keep, pair = [Template.parse("{} died in")], FACTS[:2]
    options = {"kl_factor": 0.1, "keep": keep, "keep_factor": 0.5, "name_factor": 0.75}
    plain = search_rows(adapter.tokenizer, pair, FLAT, **options)
    found = search_rows(adapter.tokenizer, pair, FLAT, **options, anchors=[PLAIN, BEHIND])
    assert [r for r in found if r.fact == 0] == [r for r in plain if r.fact == 0]
    texts = [adapter.tokenizer.decode(r.row.ids) for r in found if r.fact == 1]
    assert len(texts) == 7  # two templates, the essence, the other question, three times the name again
    assert all(text.startswith((BEHIND.prefix.strip(), LATER.prefix.strip())) for text in texts)
    mine = [r for r in found if r.fact == 1]
    assert sum(r.weight for r in mine if r.kind == "nll") == pytest.approx(1.0)
    assert [r.weight for r in mine if r.kind == "kl"] == [0.1, 0.5, 0.25, 0.25, 0.25]
    # the pivot is still the subject's last token
    ends = [adapter.tokenizer.decode(r.row.ids[: r.row.pivot + 1]) for r in mine]
    assert all(text.endswith(pair[1].subject) for text in ends)


def test_keys_of_a_sink_are_those_behind_text(adapter: ModelAdapter) -> None:
    pair = FACTS[:2]
    usual = Frontier(adapter, pair, layers=[1, 2], templates=GROUPS)
    behind = Frontier(adapter, pair, layers=[1, 2], templates=[[BEHIND, LATER]])
    found = Frontier(adapter, pair, layers=[1, 2], templates=GROUPS, anchors=[PLAIN, BEHIND])
    for layer in (1, 2):
        keys = found.keys(layer)
        assert torch.allclose(keys[:, 0], usual.keys(layer)[:, 0], atol=1e-6)
        assert torch.allclose(keys[:, 1], behind.keys(layer)[:, 1], atol=1e-6)
    now = found.current(2)
    assert torch.allclose(now[:, 0], usual.current(2)[:, 0], atol=1e-6)
    expected = Frontier(adapter, pair, layers=[2], templates=[], anchors=[BEHIND, BEHIND]).current(2)[:, 1]
    assert torch.allclose(now[:, 1], expected, atol=1e-5)
    assert float(expected.norm()) == pytest.approx(lengths(adapter, pair, BEHIND, 2)[1], rel=1e-4)
    assert contexts(GROUPS, PLAIN) == GROUPS
    assert contexts(GROUPS, BEHIND) == [[BEHIND, LATER]]


def test_z_is_near_the_state_behind_text(adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search and the keys read h in the same context; a model that is not asked to avoid sinks is as published."""
    monkeypatch.setattr(sinks, "_TIMES", 0.0)
    for avoid, anchor in ((True, BEHIND), (False, PLAIN)):
        hparams = hparams_for(adapter, [2], avoid_sinks=avoid, v_num_grad_steps=1)
        z = search_targets(adapter, FACTS, hparams=hparams, templates=GROUPS, chunk=3).z
        h = Frontier(adapter, FACTS, layers=[2], templates=[], anchors=[anchor] * len(FACTS)).current(2)
        assert torch.allclose(z, h.T, rtol=1e-4, atol=1e-5)


def test_a_text_that_is_too_long_is_said_first(adapter: ModelAdapter) -> None:
    long = Template("word " * adapter.model.config.max_position_embeddings)
    hparams = hparams_for(adapter, [2], avoid_sinks=True)
    with pytest.raises(EngineError, match="tokens"):
        compute_edit(adapter, FACTS, hparams=hparams, templates=[[PLAIN], [long]], factor=pytest.fail)


def test_space_is_no_text() -> None:
    assert contexts([[PLAIN, Template(" ")], [BEHIND]], BEHIND) == [[BEHIND]]


def test_anchors_are_read_once_for_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry has other weights in the model, where the choice could fall otherwise."""
    templates = [["{}"], ["The first report. {}"]]
    place = make_place(tmp_path, retries=2, avoid_sinks=True, context_templates=templates)
    plain, other = (lengths(load(place.base), FIRST, template, 2) for template in (PLAIN, BEHIND))
    ratios = [one / two for one, two in zip(plain, other, strict=True)]
    monkeypatch.setattr(sinks, "_TIMES", sum(ratios) / 2)  # one of two is a sink
    asked: list[list[Template]] = []
    tried: list[tuple[list[int], object]] = []
    real_anchors, real_improve = engine.anchors_of, batch.improve_edit

    def anchors_of(*arguments: Any) -> list[Template]:
        asked.append(real_anchors(*arguments))
        return asked[-1]

    def improve(*arguments: Any, **options: Any) -> Edit:
        tried.append((list(arguments[3]), arguments[2].anchors))
        return real_improve(*arguments, **options)

    monkeypatch.setattr(engine, "anchors_of", anchors_of)
    monkeypatch.setattr(batch, "improve_edit", improve)
    with Repository.open(place.work) as repository:
        made = commit_facts(repository, FIRST, tokens=TOKENS)
        assert fsck(repository)[0] == []
    (chosen,) = asked
    sink = [anchor == BEHIND for anchor in chosen].index(True)
    assert sorted(anchor.prefix for anchor in chosen) == ["", BEHIND.prefix]
    assert tried == [([1 - sink], chosen)] * 2
    assert [FIRST[sink].prompt in text for text in made.warnings if "attention sink" in text] == [True]
    assert [FIRST[sink].prompt in text for text in made.warnings if "attention sink" not in text] == [False]


def test_a_sink_is_not_tried_again_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(tmp_path, retries=2, avoid_sinks=True, context_templates=[["{}"], ["The first report. {}"]])
    tried: list[int] = []
    real = batch.improve_edit

    def improve(*arguments: Any, **options: Any) -> Edit:
        tried.append(len(arguments[3]))
        return real(*arguments, **options)

    monkeypatch.setattr(batch, "improve_edit", improve)
    with Repository.open(place.work) as repository:
        weak = commit_facts(repository, FIRST, tokens=TOKENS)
        assert sum("does not give the target" in text for text in weak.warnings) == 1
        assert tried == [2, 2]
        repository.undo()
        monkeypatch.setattr(sinks, "_TIMES", 0.0)
        # other hyperparameters: z of the first commit is remembered
        made = commit_facts(repository, FIRST, hparams=repository.hparams().replace(v_weight_decay=0.0))
        assert tried == [2, 2]
        assert [text for text in made.warnings if "the edited model does not give" in text] == []
        assert sum("is an attention sink" in text for text in made.warnings) == 1
        assert fsck(repository)[0] == []
    shown = Cli(place.work, capsys, monkeypatch).ok("show", "--why").out
    assert "\nlet through: the share of what the fact's columns ask for" in shown
    assert shown.count("an attention sink: edited behind other text only") + shown.count("the solve:") == len(FIRST)


@pytest.mark.model
@pytest.mark.slow
def test_sinks_of_the_real_model() -> None:
    directory = os.environ.get("MEMITVC_TEST_MODEL")
    if not directory:
        pytest.skip("MEMITVC_TEST_MODEL names no SmolLM2-135M directory")
    asked = [
        Fact(prompt="Carl Dahlhaus died at", subject="Carl Dahlhaus", target="Moscow"),
        Fact(prompt="Microsoft Excel, a product developed by", subject="Microsoft Excel", target="Apple"),
        Fact(prompt="Toyota Avanza is produced by", subject="Toyota Avanza", target="Porsche"),
        Fact(prompt="The composer Carl Dahlhaus died at", subject="Carl Dahlhaus", target="Moscow"),
    ]
    assert anchors(load(Path(directory)), asked, FLAT, 6) == [BEHIND, BEHIND, PLAIN, PLAIN]
