"""Positions of subject and target: three kinds of tokenizer, awkward texts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from memit_vc.errors import EngineError, UnsupportedModelError
from memit_vc.numerics.forward.rows import name_rows, prompt_rows, search_rows
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.forward.tokens import Template, TokenRow, encode, join_target, last_token, target_rows
from memit_vc.objects import Fact
from tests.support.models import FACTS, Kind, tokenizer

KINDS: tuple[Kind, ...] = get_args(Kind)
TEMPLATES = (Template(""), Template("In 1987, a report. "), Template("😀 ", " — said he"))


@pytest.fixture(params=KINDS)
def tok(request: pytest.FixtureRequest) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield tokenizer(request.param)


def covered(tok: Any, text: str, index: int) -> tuple[int, int]:
    return tok(text, return_offsets_mapping=True)["offset_mapping"][index]


def squeezed(text: str) -> str:
    """What every tokenizer agrees on: no spaces, no case."""
    return "".join(text.lower().split())


def test_pivot_is_the_token_with_the_last_character_of_the_subject(tok: Any) -> None:
    for template in TEMPLATES:
        for fact, row in zip(FACTS, prompt_rows(tok, FACTS, template), strict=True):
            text = template.fill(fact.prompt)
            start, end = template.span(fact.subject_span)
            assert text[start:end] == fact.subject
            first, stop = covered(tok, text, row.pivot)
            assert first < end <= stop
            assert list(row.ids) == tok(text)["input_ids"][: row.pivot + 1]


def test_labels_spell_the_target_and_nothing_else(tok: Any) -> None:
    rows = [r for r in search_rows(tok, FACTS, TEMPLATES) if r.kind == "nll"]
    assert len(rows) == len(FACTS) * len(TEMPLATES)
    for found in rows:
        fact, row = FACTS[found.fact], found.row
        assert squeezed(tok.decode(list(row.labels))) == squeezed(fact.target)
        assert row.positions == tuple(range(len(row.ids) - len(row.labels), len(row.ids)))
        assert row.ids[row.positions[0] + 1 :] == row.labels[:-1]
        assert row.pivot <= row.positions[0]


def test_kl_rows_end_at_the_subject(tok: Any) -> None:
    for found in (r for r in search_rows(tok, FACTS, TEMPLATES) if r.kind == "kl"):
        fact = FACTS[found.fact]
        first, stop = covered(tok, f"{fact.subject} is a", found.row.pivot)
        assert first < len(fact.subject) <= stop
        assert len(found.row.ids) == found.row.pivot + 1
        assert not found.row.positions


def test_settings_of_the_tokenizer_change_nothing(tok: Any) -> None:
    expected = search_rows(tok, FACTS, TEMPLATES)
    tok.add_special_tokens({"pad_token": tok.eos_token})
    for side in ("left", "right"):
        tok.padding_side = tok.truncation_side = side
        tok.backend_tokenizer.enable_padding(length=64, direction=side)
        tok.backend_tokenizer.enable_truncation(max_length=3, direction=side)
        assert search_rows(tok, FACTS, TEMPLATES) == expected


def test_special_tokens_in_front_are_kept_and_behind_are_dropped() -> None:
    text = "The capital of Norland is"
    bert, llama = tokenizer("wordpiece"), tokenizer("metaspace")
    assert bert(text)["input_ids"][-1] == bert.eos_token_id
    (encoded,) = encode(bert, [text])
    assert encoded.ids[0] == bert.bos_token_id
    assert bert.eos_token_id not in encoded.ids
    assert encode(llama, [text])[0].ids[0] == llama.bos_token_id
    assert encode(llama, []) == []


def test_subject_at_the_very_start(tok: Any) -> None:
    fact = Fact(prompt="Norland has its capital in", subject="Norland", target="Lisbon")
    (row,) = prompt_rows(tok, [fact], Template(""))
    first, stop = covered(tok, fact.prompt, row.pivot)
    assert first < 7 <= stop
    assert fact.prompt[stop:].lstrip().startswith("has")


def test_one_token_subject_at_the_very_start() -> None:
    (row,) = prompt_rows(tokenizer("byte_bpe"), [Fact(prompt="The is", subject="The", target="x")], Template(""))
    assert (row.pivot, len(row.ids)) == (0, 1)


@pytest.mark.parametrize(("occurrence", "end"), [(0, 4), (1, 23), (None, 23)])
def test_subject_twice(tok: Any, occurrence: int | None, end: int) -> None:
    prompt = "Sarn is the island Sarn and more"
    fact = Fact(prompt=prompt, subject="Sarn", target="far", occurrence=occurrence)
    assert prompt[:end].endswith("Sarn")
    (row,) = prompt_rows(tok, [fact], Template("Sarn said: "))
    first, stop = covered(tok, "Sarn said: " + prompt, row.pivot)
    assert first < end + 11 <= stop


@pytest.mark.parametrize(
    "subject", ["😀", "Zoë 👩‍👩‍👧", "Łódź", "مصر", "नमस्ते", "東京", "Ｆｕｌｌ", "e\u0301", "A\u00a0B"]
)
@pytest.mark.parametrize("kind", ["byte_bpe", "metaspace"])
def test_unicode_subjects_end_at_the_last_of_their_byte_tokens(kind: Kind, subject: str) -> None:
    tok = tokenizer(kind)
    fact = Fact(prompt=f"The home of {subject} is", subject=subject, target="Rome")
    (row,) = prompt_rows(tok, [fact], Template(""))
    start, end = fact.subject_span
    offsets = tok(fact.prompt, return_offsets_mapping=True)["offset_mapping"]
    first, stop = offsets[row.pivot]
    assert first < end <= stop
    assert offsets[row.pivot + 1][0] >= end  # the next token begins behind the subject
    assert start < end


def test_a_character_of_several_byte_tokens_is_more_than_one_token() -> None:
    tok = tokenizer("byte_bpe")
    (encoded,) = encode(tok, ["of 😀 is"])
    spans = [span for span in encoded.offsets if span == (3, 4)]
    assert len(spans) == 4
    assert last_token(encoded, (3, 4)) == max(i for i, span in enumerate(encoded.offsets) if span == (3, 4))


@pytest.mark.parametrize(
    ("target", "joined"),
    [
        ("Lisbon", "is Lisbon"),
        (" Lisbon", "is Lisbon"),
        ("\nLisbon", "is\nLisbon"),
        ("東京", "is東京"),
        ("ひらがな", "isひらがな"),
        ("カタカナ", "isカタカナ"),
        ("ไทย", "isไทย"),
        ("한국", "is 한국"),
        ("Москва", "is Москва"),
        ("العربية", "is العربية"),
        ("42", "is 42"),
    ],
)
def test_one_space_before_a_target_but_none_in_scripts_without_spaces(target: str, joined: str) -> None:
    assert join_target("is", target) == joined
    assert join_target("is ", target.lstrip()) == "is " + target.lstrip()


@pytest.mark.parametrize("target", ["《呐喊》", "「国語」", "2008年", "ﾄﾖﾀ", "(1918)"])
def test_no_space_behind_a_script_without_spaces(target: str) -> None:
    assert join_target("鲁迅的代表作是", target) == "鲁迅的代表作是" + target


@pytest.mark.parametrize("kind", ["byte_bpe", "metaspace"])
@pytest.mark.parametrize(
    ("prompt", "subject", "target"),
    [("诺兰的首都是", "诺兰", "里斯本"), ("ノルランドの首都は", "ノルランド", "東京です")],
)
def test_targets_without_a_leading_space(kind: Kind, prompt: str, subject: str, target: str) -> None:
    tok = tokenizer(kind)
    found = search_rows(tok, [Fact(prompt=prompt, subject=subject, target=target)], [Template("")])[0].row
    assert tok.decode(list(found.labels)) == target
    assert tok.decode([*found.ids, found.labels[-1]], skip_special_tokens=True).strip() == prompt + target


def test_braces_are_text(tok: Any) -> None:
    prompt = "In {Norland} the {} set {0} of %s Norland is"
    (group,) = parse_templates([["{}", "A note {}"]])
    fact = Fact(prompt=prompt, subject="Norland", target="{x}")
    for template, row in zip(group, [prompt_rows(tok, [fact], t)[0] for t in group], strict=True):
        text = template.fill(prompt)
        first, stop = covered(tok, text, row.pivot)
        assert first < len(text) - 3 <= stop
    assert search_rows(tok, [fact], group)[0].row.labels


def test_a_template_needs_a_place_for_the_prompt() -> None:
    with pytest.raises(EngineError, match=r"has no \{\}"):
        Template.parse("A note")


def test_slow_tokenizers_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="ByT5Tokenizer gives no character offsets") as caught:
        encode(ByT5Tokenizer(), ["a text"])
    assert caught.value.hint is not None
    assert "fast tokenizer" in caught.value.hint


def unigram(*pieces: str) -> PreTrainedTokenizerFast:
    """A tokenizer that takes the longest of its pieces, and splits at no spaces."""
    known = [("<unk>", -99.0), *((piece, -1.0 / len(piece)) for piece in pieces)]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(known, unk_id=0, byte_fallback=False)))


def test_a_token_across_the_boundary_is_not_made() -> None:
    """A generator that got "Norland is " goes on behind the space."""
    tok = unigram("Nor", "land", " is", " ", " Rome", "Rome", "\n")
    (row,) = target_rows(tok, [("Norland is ", "Rome")], spans=[(0, 7)])
    assert tok.convert_ids_to_tokens(list(row.labels)) == ["Rome"]
    assert row == TokenRow(ids=tuple(tok("Norland is ")["input_ids"]), pivot=1, positions=(3,), labels=row.labels)
    (usual,) = target_rows(tok, [("Norland is", "Rome")])
    assert tok.convert_ids_to_tokens(list(usual.labels)) == [" Rome"]


def test_a_subject_at_the_end_of_a_prompt_keeps_its_last_token() -> None:
    tok = unigram("首都", "東", "京", "都", "京都", "\n")
    fact = Fact(prompt="首都東京", subject="東京", target="都")
    row = search_rows(tok, [fact], [Template("")])[0].row
    assert tok.convert_ids_to_tokens([*row.ids, *row.labels]) == ["首都", "東", "京", "都"]
    assert row.pivot == 2 == prompt_rows(tok, [fact], Template(""))[0].pivot


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("The capital of Norland is", "Lisbon"),
        ("The capital of Norland is ", "Lisbon"),
        ("诺兰的首都是", "里斯本"),
        ("ノルランドの首都は", "東京です"),
        ('The capital of Norland is "', "Lisbon"),
        ("The capital of Norland (", "Lisbon)"),
        ("The capital of Norland is\n", "Lisbon"),
        ("The capital of Norland is 19", "87"),
    ],
)
def test_rows_are_what_a_generator_reads_and_writes(tok: Any, prompt: str, target: str) -> None:
    (encoded,) = encode(tok, [prompt])
    (row,) = target_rows(tok, [(prompt, target)])
    assert row.ids[: len(encoded.ids)] == encoded.ids
    assert row.positions[0] == len(encoded.ids) - 1
    written = tok.decode([*row.ids, row.labels[-1]], skip_special_tokens=True)
    assert squeezed(written) == squeezed(tok.decode(tok(prompt + target)["input_ids"], skip_special_tokens=True))
    assert row.ids[len(encoded.ids) :] == row.labels[:-1]


@pytest.mark.parametrize("kind", ["byte_bpe", "metaspace"])
def test_the_usual_space_gives_the_natural_tokens(kind: Kind) -> None:
    """SentencePiece puts no second space before a target, and none before one that follows a space."""
    tok = tokenizer(kind)
    usual, spaced = target_rows(tok, [("The home is", "Lisbon"), ("The home is ", "Lisbon")])
    assert tok.decode(list(usual.labels)).strip() == tok.decode(list(spaced.labels)) == "Lisbon"
    assert list(usual.labels) == tok("The home is Lisbon")["input_ids"][-len(usual.labels) :]
    assert tok.convert_ids_to_tokens(usual.labels[0])[0] in "▁Ġ"
    assert tok.convert_ids_to_tokens(spaced.labels[0])[0] == "L"


def test_nothing_before_the_target_is_refused() -> None:
    with pytest.raises(EngineError, match="nothing precedes the target"):
        target_rows(unigram("東京", "東", "京"), [("", "京")])


def test_texts_that_the_tokenizer_drops_are_refused() -> None:
    made = Tokenizer(models.WordLevel({"a": 0, "?": 1}, "?"))
    made.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("b")
    tok = PreTrainedTokenizerFast(tokenizer_object=made)
    (encoded,) = encode(tok, ["abab"])
    assert last_token(encoded, (2, 3)) == 1
    with pytest.raises(EngineError, match="no token covers"):
        last_token(encoded, (1, 2))
    with pytest.raises(EngineError, match="no token of its own"):
        target_rows(tok, [("a", "b")])


words = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["byte_bpe", "metaspace"]), st.lists(words, min_size=1, max_size=3), words, words)
def test_any_text(kind: Kind, before: list[str], subject: str, target: str) -> None:
    """The prompt's ids are a generator's, the subject's last token is the same for keys and search."""
    tok = tokenizer(kind)
    fact = Fact(prompt=" ".join([*before, subject, "is the"]), subject=subject, target=target)
    row = search_rows(tok, [fact], [Template("")])[0].row
    prompt = tok(fact.prompt, return_offsets_mapping=True)
    n = len(prompt["input_ids"])
    assert list(row.ids[:n]) == prompt["input_ids"]
    assert row.positions == tuple(range(n - 1, n - 1 + len(row.labels)))
    assert prompt["offset_mapping"][row.pivot][0] < fact.subject_span[1] <= prompt["offset_mapping"][row.pivot][1]


def test_a_text_that_names_the_subject_again_ends_before_its_last_token(tok: Any) -> None:
    """The pivot is in the first name, the row's next token would end the second one."""
    for template in (Template(""), Template("In 1987, a report. ")):
        for fact in FACTS:
            stated = join_target(fact.prompt, fact.target)
            before = [f"{fact.subject}.", f"Question: {fact.prompt}\nAnswer:", f"{stated}."]
            ends = [len(fact.subject), len("Question: ") + fact.subject_span[1], fact.subject_span[1]]
            whole = [join_target(template.prefix + text, fact.subject) for text in before]
            tokens = [tok(text)["input_ids"] for text in whole]
            encoded = encode(tok, whole)
            lasts = [last_token(each, (len(each.text) - 1, len(each.text))) for each in encoded]
            firsts = [last_token(each, (n := len(each.text) - len(fact.subject), n + 1)) for each in encoded]
            rows = name_rows(tok, fact, template)
            kept = [i for i in range(3) if firsts[i] < lasts[i]]
            assert [list(row.ids) for row in rows] == [tokens[i][: lasts[i]] for i in kept]
            for row, i in zip(rows, kept, strict=True):
                first, stop = covered(tok, whole[i], row.pivot)
                assert first < len(template.prefix) + ends[i] <= stop
                assert not row.labels


def test_the_names_share_their_weight_and_one_token_has_none(tok: Any) -> None:
    rows = search_rows(tok, FACTS, TEMPLATES, name_factor=0.5)
    plain = search_rows(tok, FACTS, TEMPLATES)
    assert rows[: len(plain)] == plain
    named = [name_rows(tok, fact, Template("")) for fact in FACTS]
    for number in range(len(FACTS)):
        weights = [row.weight for row in rows[len(plain) :] if row.fact == number]
        assert len(weights) == len(named[number])
        assert sum(weights) == pytest.approx(0.5 if named[number] else 0.0)
    longest = max(len(row.row.ids) for row in rows[len(plain) :])
    short = search_rows(tok, FACTS, TEMPLATES, name_factor=0.5, positions=longest - 1)
    assert max(len(row.row.ids) for row in short[len(plain) :]) < longest
    assert sum(row.weight for row in short[len(plain) :]) == pytest.approx(
        sum(row.weight for row in rows[len(plain) :])
    )
    alias = Fact(prompt="Norland Kerst is also called", subject="Norland Kerst", target="Norland Kerst II")
    assert name_rows(tok, replace(alias, target="Voss"), Template(""))
    assert name_rows(tok, alias, Template("")) == []  # they might hold the old answer
    letter = Fact(prompt="A is in", subject="A", target="Rome")
    assert name_rows(tok, letter, Template("")) == []


def test_an_answer_in_chat_has_an_end(tok: Any) -> None:
    """The row is the one without an end, and one more label: the first token of the end, behind the whole target."""
    turn = Template("User: ", "\nAssistant: ")
    plain = [r for r in search_rows(tok, FACTS, [turn]) if r.kind == "nll"]
    ended = [r for r in search_rows(tok, FACTS, [replace(turn, end=".\n", end_share=0.25)]) if r.kind == "nll"]
    *_, dot = encode(tok, ["a."])[0].ids
    for one, other in zip(plain, ended, strict=True):
        assert (other.fact, other.weight, other.row.pivot) == (one.fact, one.weight, one.row.pivot)
        assert other.row.ids == (*one.row.ids, one.row.labels[-1])
        assert other.row.labels == (*one.row.labels, dot)
        assert other.row.shares == (*[1 / len(one.row.labels)] * len(one.row.labels), 0.25)
        assert other.row.positions == tuple(range(len(one.row.ids) - len(one.row.labels), len(other.row.ids)))


@pytest.mark.parametrize("between", ["", " ", "\n"])
def test_an_answer_stands_where_a_template_puts_it(tok: Any, between: str) -> None:
    """The prompt's tokens are those of the text without it: what stands between belongs to the answer."""
    turn = Template("User: ", "\n[A]", between)
    rows = [r for r in search_rows(tok, FACTS, [Template(""), turn]) if r.kind == "nll"]
    assert rows[::2] == [replace(r, weight=0.5) for r in search_rows(tok, FACTS, [Template("")]) if r.kind == "nll"]
    for fact, row in zip(FACTS, (row.row for row in rows[1::2]), strict=True):
        [asked] = encode(tok, [turn.fill(fact.prompt)])
        assert row.ids == (*asked.ids, *row.labels[:-1])
        assert row.positions[0] == len(asked.ids) - 1
        spelt = tok.decode(list(row.labels))
        assert squeezed(spelt) == squeezed(fact.target)
        assert not spelt.startswith(" ") or between == " "
