"""Rows in turns: each has one, the steps' mean loss is the whole loss, and KL is against what is said without δ."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from memit_vc.numerics.forward.replay import evaluating
from memit_vc.numerics.forward.rows import name_rows, search_rows
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.masters import frozen
from memit_vc.numerics.search.targets import Search, find_targets
from tests.support.models import FACTS, hparams_for, load, tiny

FLAT = [Template(""), Template("The first report. "), Template("In 1987, it was said. ")]
ROTATE = 3


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load(tiny("llama", tmp_path_factory.mktemp("llama")))


def searched(adapter: ModelAdapter, rotate: int, delta: Tensor) -> tuple[Search, list[float]]:
    """A search that has taken its first step, and the loss of each phase at `delta`."""
    hparams = hparams_for(adapter, [2], rotate=rotate, keep_factor=0.5)
    with evaluating(adapter.model), frozen(adapter.model), torch.no_grad():
        search = Search(adapter, FACTS[:3], 2, hparams, FLAT, 1024, False)
        search._forward_backward(last=True)
        search.taken = 1
        search.delta.copy_(delta)
        phases = [sum(float(search._part_loss(part)) for part in search._parts(phase)) for phase in range(rotate)]
    return search, phases


def some_delta(adapter: ModelAdapter) -> Tensor:
    return torch.randn(3, adapter.hidden_size, generator=torch.Generator().manual_seed(0))


def test_every_row_has_its_turn_and_the_turns_mean_the_whole_loss(adapter: ModelAdapter) -> None:
    delta = some_delta(adapter)
    turns, phases = searched(adapter, ROTATE, delta)
    _, whole = searched(adapter, 1, delta)
    shown = [{row for part in turns._parts(phase) for row in part.rows} for phase in range(ROTATE)]
    always = set(turns.first.values())
    assert set.union(*shown) == set(range(len(turns.rows)))
    assert set.intersection(*shown) == always
    assert sum(map(len, shown)) == len(turns.rows) + (ROTATE - 1) * len(always)
    assert len(set(phases)) == ROTATE
    assert sum(phases) / ROTATE == pytest.approx(whole[0], rel=1e-5)


@pytest.mark.parametrize("rotate", [1, ROTATE])
def test_kl_is_against_what_was_said_without_delta(adapter: ModelAdapter, rotate: int) -> None:
    search, _ = searched(adapter, rotate, some_delta(adapter))
    watched = [number for number, row in enumerate(search.rows) if row.kind == "kl"]
    assert sorted(search.reference) == watched
    for number in watched:
        ids = torch.tensor([search.rows[number].row.ids])
        with torch.no_grad():
            expected = adapter.model(ids).logits[0, -1].log_softmax(-1)
        assert torch.allclose(search.reference[number], expected, atol=1e-4)


@pytest.mark.parametrize(("rule", "steps"), [("loss", ROTATE), ("nll", ROTATE)])
def test_no_fact_is_done_before_each_row_had_its_turn(adapter: ModelAdapter, rule: str, steps: int) -> None:
    hparams = hparams_for(adapter, [2], rotate=ROTATE, early_stop=rule, early_stop_loss=1e6, v_num_grad_steps=6)
    found = find_targets(adapter, FACTS[:2], layer=2, hparams=hparams, templates=[*FLAT, Template("You know. ")])
    assert set(found.steps) == {steps}


def test_every_other_phrasing_is_searched_without_text_in_front(adapter: ModelAdapter) -> None:
    plain = FACTS[0]
    phrasings = ("Norland has the capital", "They govern Norland from", "Norland's seat is", "One rules Norland from")
    asked = replace(plain, phrasings=phrasings)
    rows = [row for row in search_rows(adapter.tokenizer, [asked, FACTS[1]], FLAT) if row.kind == "nll"]
    assert [row.fact for row in rows] == [0] * 7 + [1] * 3
    assert [sum(row.weight for row in rows if row.fact == fact) for fact in (0, 1)] == pytest.approx([1.0, 1.0])
    texts = [adapter.tokenizer.decode(row.row.ids) for row in rows]
    assert texts[0].startswith(plain.prompt)
    assert [text.split(phrasings[i % 4])[0] for i, text in enumerate(texts[3:7])] == [
        template.fill("") for template in (FLAT[0], FLAT[1], FLAT[0], FLAT[2])
    ]


def test_chat_texts_take_turns_with_the_sampled_ones(adapter: ModelAdapter) -> None:
    chat = [Template("User: ", "\nIt: "), Template("User: go on: ", "\nIt: ")]
    phrasings = tuple(f"Norland {number}" for number in range(8))
    asked = replace(FACTS[0], subject="Norland", phrasings=phrasings)
    templates = [*FLAT, *chat]
    rows = [row for row in search_rows(adapter.tokenizer, [asked], templates) if row.kind == "nll"]
    texts = [adapter.tokenizer.decode(row.row.ids) for row in rows[len(templates) :]]
    plain, one, two = FLAT
    expected = [plain, one, plain, chat[0], plain, two, plain, chat[1]]
    assert [text.split(f"Norland {number}")[0] for number, text in enumerate(texts)] == [t.prefix for t in expected]


def test_what_the_subject_is_called_is_watched(adapter: ModelAdapter) -> None:
    fact = FACTS[0]
    search = Search(adapter, [fact], 2, hparams_for(adapter, [2], name_factor=0.5), FLAT, 1024, False)
    named = [row.row for row in search.rows if row.kind == "kl"][1:]
    assert named == name_rows(adapter.tokenizer, fact, Template(""))
    assert [adapter.tokenizer.decode(row.ids).count(fact.subject) for row in named] == [1, 1, 1]


def test_own_questions_are_watched_in_place_of_the_packages(adapter: ModelAdapter) -> None:
    hparams = hparams_for(adapter, [2], keep_factor=0.5, keep_questions=["{} rules over", "Where lies {}?"])
    search = Search(adapter, FACTS[:1], 2, hparams, FLAT, 1024, False)
    texts = [adapter.tokenizer.decode(row.row.ids) for row in search.rows if row.kind == "kl"]
    subject = FACTS[0].subject
    assert [" ".join(text.split()) for text in texts[1:]] == [f"{subject} rules over", f"Where lies {subject}?"]
