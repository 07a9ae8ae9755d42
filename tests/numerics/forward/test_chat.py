"""A prompt as a user's turn: the template's text around it, the same on every day."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from memit_vc.numerics.forward.chat import END_SHARE, SCORED, SEARCHED, chat_ids, chat_template, turns
from memit_vc.numerics.forward.tokens import Template
from tests.support.models import load, tiny

TURN = "{% for m in messages %}User: {{ m['content'] }}\n{% endfor %}Assistant: "
DATED = "{% set today = strftime_now('%d %b %Y') %}Today: {{ today }}\n" + TURN


@pytest.fixture
def tokenizer(tmp_path: Path):  # type: ignore[no-untyped-def]
    return load(tiny("llama", tmp_path)).tokenizer


def test_the_template_is_what_stands_around_the_prompt(tokenizer) -> None:  # type: ignore[no-untyped-def]
    assert chat_template(tokenizer, "{}") is None
    tokenizer.chat_template = TURN
    asked = chat_template(tokenizer, "Complete this: {}")
    assert asked == Template("User: Complete this: ", "\nAssistant: ")
    assert chat_ids(tokenizer, "The {x}") == tuple(
        tokenizer("User: The {x}\nAssistant: ", add_special_tokens=False)["input_ids"]
    )


def test_a_date_in_the_template_is_the_same_on_every_day(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = DATED
    assert chat_template(tokenizer, "{}") == Template("Today: 26 Jul 2024\nUser: ", "\nAssistant: ")
    # a person who asks lives today
    today = f"Today: {datetime.now():%d %b %Y}\nUser: x\nAssistant: "
    assert chat_ids(tokenizer, "x") == tuple(tokenizer(today, add_special_tokens=False)["input_ids"])


def test_a_template_that_fails_asks_nothing(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert chat_template(tokenizer, "{}") is None
    assert chat_ids(tokenizer, "x") is None


def test_a_search_asks_other_words_than_the_score() -> None:
    assert SCORED not in SEARCHED
    assert all(words.count("{}") == 1 for words in (SCORED, *SEARCHED))


def written(before: str, behind: str) -> str:
    """A template with these texts around an answer."""
    return (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}"
        + before
        + "{{ m['content'] }}"
        + behind
        + "{% else %}[user] {{ m['content'] }}{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}[assistant]{% endif %}"
    )


@pytest.mark.parametrize(
    ("before", "behind", "between", "end"),
    [
        ("[assistant]", "<|end|>", "", "<|end|>"),
        ("[assistant] ", " </s>", " ", "</s>"),
        ("[assistant]{{ '\\n' }}", "", "\n", ""),
    ],
)
def test_a_turn_says_where_an_answer_stands_and_what_ends_it(  # type: ignore[no-untyped-def]
    tokenizer, before: str, behind: str, between: str, end: str
) -> None:
    assert turns(tokenizer) == []
    tokenizer.chat_template = written(before, behind)
    prefixes = ["[user] " + words.removesuffix("{}") for words in SEARCHED]
    assert turns(tokenizer) == [Template(prefix, "[assistant]", between, end, END_SHARE) for prefix in prefixes]


@pytest.mark.parametrize(
    "template",
    [
        written("[assistant]<think></think>", "<|end|>"),  # it would be answered among the thoughts
        "{% for m in messages[:1] %}[user] {{ m['content'] }}{% endfor %}[assistant]",  # it writes no answer
    ],
)
def test_a_search_does_not_ask_where_no_answer_stands(tokenizer, template: str) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = template
    assert chat_template(tokenizer, "{}") is not None
    assert turns(tokenizer) == []


def test_a_template_that_refuses_an_answer_has_no_end(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = written("{{ raise_exception('no') }}", "")
    assert turns(tokenizer) == [Template("[user] " + words.removesuffix("{}"), "[assistant]") for words in SEARCHED]


def test_a_dated_template_begins_as_it_is_written(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = (
        "\n  {% for m in messages %}{{ strftime_now('%F, %-d/%m') }} {{ m['content'] }}{% endfor %}"
    )
    asked = chat_template(tokenizer, "{}")
    assert asked is not None
    assert asked.prefix.endswith("2024-07-26, 26/07 ")
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ strftime_now('%F, %-d/%m') }}", "2024-07-26, 26/07")
    assert chat_ids(tokenizer, "x") == tuple(tokenizer(asked.fill("x"), add_special_tokens=False)["input_ids"])
