"""The scores that ask freely, in chat, and other questions about the subject, against plain loops over the model."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memit_vc.numerics.forward.questions import NAMED, SCORED, SEARCHED
from memit_vc.numerics.forward.tokens import target_rows
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.scores import scores as scores_module
from memit_vc.numerics.scores.generation import Generated
from memit_vc.numerics.scores.likelihood import Continued
from memit_vc.numerics.scores.scores import CHAT_REPLY, FREE, score, subject_answers
from memit_vc.objects import Fact, Probe
from tests.support.models import FACTS, load, tiny

CHAT = (
    "{% for m in messages %}User: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    made = load(tiny("llama", tmp_path_factory.mktemp("llama")))
    made.tokenizer.chat_template = CHAT
    return made


def answer(adapter: ModelAdapter, text: str, tokens: int) -> list[int]:
    """The most likely ids behind a text, one forward of all of it for each."""
    ids = list(adapter.tokenizer(text)["input_ids"])
    start = len(ids)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(adapter.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


def begins(adapter: ModelAdapter, text: str, target: str) -> float:
    said = adapter.tokenizer.decode(answer(adapter, text, FREE), skip_special_tokens=True)
    return float(re.match(rf"{re.escape(target)}(?!\w)", said.strip().split("\n", 1)[0]) is not None)


def names(adapter: ModelAdapter, text: str, target: str) -> float:
    said = adapter.tokenizer.decode(answer(adapter, text, CHAT_REPLY), skip_special_tokens=True)
    return float(target.lower() in re.findall(r"\w+", said.lower()))


def word_of_reply(adapter: ModelAdapter, text: str) -> str:
    """A word in the middle of the model's reply, in capitals: a target that it names, but does not begin with."""
    words = re.findall(r"\w+", adapter.tokenizer.decode(answer(adapter, text, 20), skip_special_tokens=True))
    return str(words[len(words) // 2].upper())


def said(adapter: ModelAdapter, text: str) -> str:
    """A target that the model's own answer begins with: its first word."""
    reply = adapter.tokenizer.decode(answer(adapter, text, FREE), skip_special_tokens=True).strip()
    return reply.split("\n", 1)[0].split(" ", 1)[0] or "."


def test_answers_asked_freely_and_in_chat(adapter: ModelAdapter) -> None:
    asked = [(fact.prompt, f"User: Finish this sentence: {fact.prompt}\nAssistant: ") for fact in FACTS[:3]]
    chosen = [
        replace(FACTS[0], target=said(adapter, asked[0][0])),
        replace(FACTS[1], target=word_of_reply(adapter, asked[1][1])),
    ]
    chosen.append(FACTS[2])
    found = score(adapter, chosen, chat=True)
    expected = [
        {"free_acc": begins(adapter, plain, fact.target), "chat_acc": names(adapter, chat, fact.target)}
        for fact, (plain, chat) in zip(chosen, asked, strict=True)
    ]
    assert [{name: each[name] for name in ("free_acc", "chat_acc")} for each in found] == expected
    assert expected[0]["free_acc"] == expected[1]["chat_acc"] == 1.0
    assert expected[2] == {"free_acc": 0.0, "chat_acc": 0.0}


def test_without_a_chat_template_nothing_is_asked_in_chat(tmp_path: Path) -> None:
    bare = load(tiny("gpt2", tmp_path))
    found = score(bare, FACTS[:1], chat=True)[0]
    assert (found["chat_acc"], found["same_subject"], found["hijacked"]) == (None, None, None)


def test_other_questions_about_the_subject(adapter: ModelAdapter) -> None:
    fact = FACTS[0]
    questions = [text.replace("{}", fact.subject) for text in SCORED]
    now = [answer(adapter, text, 1)[0] for text in questions]
    assert subject_answers(adapter, [fact]) == {fact.id: tuple(now)}
    news = [row.labels[0] for row in target_rows(adapter.tokenizer, [(text, fact.target) for text in questions])]
    base = [token if i % 2 else (token + 1) % 100 for i, token in enumerate(now)]
    base[3] = news[3]  # a question that the base answers with the target is left out
    counted = [i for i in range(len(questions)) if base[i] != news[i]]
    found = score(adapter, [fact], base={fact.id: base})[0]
    assert found["same_subject"] == pytest.approx(sum(base[i] == now[i] for i in counted) / len(counted))
    assert found["hijacked"] == pytest.approx(sum(now[i] == news[i] for i in counted) / len(counted))
    assert 0 < float(found["same_subject"] or 0) < 1


def test_a_target_that_the_questions_get_is_hijacking(adapter: ModelAdapter) -> None:
    fact = FACTS[0]
    question = SCORED[0].replace("{}", fact.subject)
    first = adapter.tokenizer.decode(answer(adapter, question, 1)).strip()
    taken = replace(fact, target=first or ".")
    row = target_rows(adapter.tokenizer, [(question, taken.target)])[0]
    now = subject_answers(adapter, [taken])[taken.id]
    base = [(row.labels[0] + 1) % 100] * len(SCORED)
    found = score(adapter, [taken], base={taken.id: base})[0]
    news = [
        target_rows(adapter.tokenizer, [(t.replace("{}", fact.subject), taken.target)])[0].labels[0] for t in SCORED
    ]
    assert found["hijacked"] == pytest.approx(sum(map(int.__eq__, now, news)) / len(SCORED))


def test_a_question_that_asks_what_the_fact_says_is_no_other_question(adapter: ModelAdapter) -> None:
    for prompt in ("Marie Curie was born in", "Marie Curie was born in the city of"):  # as such, and by the phrase book
        fact = Fact(prompt=prompt, subject="Marie Curie", target="Oslo")
        now = subject_answers(adapter, [fact])[fact.id]
        elsewhere = [number for number, text in enumerate(SCORED) if text != "{} was born in"]
        base = [token if number in elsewhere else (token + 1) % 100 for number, token in enumerate(now)]
        assert score(adapter, [fact], base={fact.id: base})[0]["same_subject"] == 1.0
    probed = Fact(prompt="Marie Curie speaks", subject="Marie Curie", target="Oslo", generation_prompts=(prompt,))
    assert score(adapter, [probed], base={probed.id: base})[0]["same_subject"] == pytest.approx(1 - 1 / len(SCORED))


def test_a_name_is_kept_if_all_its_tokens_but_the_first_are(
    adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memit_vc.numerics.scores import scores as module

    real, kept, lost = module.continuations, FACTS[0].subject, FACTS[1].subject
    one = replace(FACTS[2], prompt="physics is in", subject="physics", occurrence=None)

    def told(adapter: ModelAdapter, asked: list[tuple[str, str]], **options: object) -> list[Continued]:
        rows, found = target_rows(adapter.tokenizer, asked), real(adapter, asked, **options)  # type: ignore[arg-type]
        names = {(text.replace("{}", name), name): last for text, last in zip(NAMED, (0, 1), strict=True)
                 for name in (kept, lost)}  # fmt: skip
        for number, (pair, row) in enumerate(zip(asked, rows, strict=True)):
            if pair in names:  # never the first token, and of one name in one text not the last one
                wrong = int(pair[1] == lost and names[pair])
                labels = (row.labels[0] + 1, *row.labels[1:-1], row.labels[-1] + wrong)
                found[number] = replace(found[number], predicted=labels)
        return found

    monkeypatch.setattr(module, "continuations", told)
    assert len(adapter.tokenizer(kept, add_special_tokens=False)["input_ids"]) > 1
    assert [each["name_acc"] for each in score(adapter, [FACTS[0], FACTS[1], one])] == [1.0, 0.5, None]


def test_name_of_a_model_that_copies_nothing(adapter: ModelAdapter) -> None:
    fact = FACTS[0]
    expected = []
    for text in NAMED:
        (row,) = target_rows(adapter.tokenizer, [(text.replace("{}", fact.subject), fact.subject)])
        with torch.no_grad():
            best = adapter.model(torch.tensor([row.ids])).logits[0].argmax(-1)
        expected.append(float(best[list(row.positions[1:])].tolist() == list(row.labels[1:])))
    assert score(adapter, [fact])[0]["name_acc"] == sum(expected) / len(expected)


def test_phrasings_and_searched_questions_are_never_scored(
    adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memit_vc.numerics.scores import scores as module

    asked: list[str] = []
    original = module.continuations

    def watched(adapter: ModelAdapter, pairs: list[tuple[str, str]], **more: object) -> object:
        asked.extend(prompt for prompt, _ in pairs)
        return original(adapter, pairs, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "continuations", watched)
    plain: Fact = FACTS[0]
    phrased = replace(plain, phrasings=("Norland has the capital", "They govern Norland from"))
    assert score(adapter, [phrased]) == score(adapter, [plain])
    assert not [text for text in asked if any(phrasing in text for phrasing in phrased.phrasings)]
    assert not set(SEARCHED) & set(SCORED)


def test_a_target_is_a_word_in_scripts_that_have_words(adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roman is no answer that says Romania; 東京 is one within 答えは東京です."""
    replies = {"Romania, and": "Roman", "答えは東京です。": "東京", "서울입니다": "서울", "Rome.": "Rome"}
    for reply, target in replies.items():
        written = Generated((), reply)
        monkeypatch.setattr(scores_module, "generate", lambda *_, said=written, **__: said)
        monkeypatch.setattr(scores_module, "greedy", lambda *_, said=written, **__: [said])
        asked = replace(FACTS[0], target=target)
        found = score(adapter, [asked], chat=True)[0]
        assert found["chat_acc"] == (0.0 if target == "Roman" else 1.0)


def test_an_old_answer_that_is_the_new_one_has_no_es(adapter: ModelAdapter) -> None:
    probes = (Probe(prompt=FACTS[1].prompt, answer=FACTS[0].target),)
    same = replace(FACTS[0], ground_truth=FACTS[0].target, neighbourhood=probes)
    found = score(adapter, [same])[0]
    assert (found["ES"], found["NS"]) == (None, None)


def test_a_checkpoints_own_penalties_do_not_count(adapter: ModelAdapter) -> None:
    """The score is of the most likely text; some checkpoints come with a penalty for what was said before."""
    plain = scores_module.greedy(adapter, [FACTS[0].prompt], new_tokens=FREE)[0]
    config = adapter.model.generation_config
    config.repetition_penalty, config.no_repeat_ngram_size = 9.0, 1
    try:
        assert scores_module.greedy(adapter, [FACTS[0].prompt], new_tokens=FREE)[0] == plain
    finally:
        config.repetition_penalty, config.no_repeat_ngram_size = 1.0, 0
