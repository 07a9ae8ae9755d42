"""The phrase book: which prompts it knows, and that no score asks what a search has asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memit_vc.numerics.edit.engine import search_targets
from memit_vc.numerics.forward import phrasebook
from memit_vc.numerics.forward.phrasebook import PhraseBook
from memit_vc.numerics.forward.questions import SCORED, SEARCHED
from memit_vc.numerics.forward.rows import search_rows
from memit_vc.numerics.forward.tokens import Template
from memit_vc.objects import Fact
from tests.support.models import FACTS, hparams_for, load, tiny

BOOK = PhraseBook(
    (
        ("The capital of {} is", "{} has its capital in", "{}'s capital is", "{}'s capital was"),
        ("{} plays", "{} plays the sport of", "{} is a player of"),
        ("{} plays", "{} performs", "{} is a player of"),
    )
)


def fact(prompt: str, **more: object) -> Fact:
    return Fact(prompt=prompt, subject="Norland", target="Tessaly", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("The capital of Norland is", ["Norland has its capital in", "Norland's capital is"]),
        ("the Capital of Norland was", ["Norland has its capital in", "Norland's capital is"]),
        ("Norland, whose capital is", ["The capital of Norland is"]),
        ("Norland plays", ["Norland is a player of"]),
        ("Norland performs", ["Norland plays", "Norland is a player of"]),
        ("Long ago. The capital of Norland is", []),
        ("Norland is fond of", []),
    ],
)
def test_a_prompt_is_known_by_its_words(prompt: str, found: list[str]) -> None:
    """Articles, commas and the tense do not count; what several relations share is all that is said of them."""
    if prompt == "Norland, whose capital is":
        book = PhraseBook((("The capital of {} is", "{}, whose capital is"),))
        assert list(book.phrasings(fact(prompt))) == found
        return
    assert list(BOOK.phrasings(fact(prompt))) == found


@pytest.mark.parametrize("field", ["paraphrases", "clean_paraphrases", "generation_prompts"])
@pytest.mark.parametrize(
    "scored",
    ["Norland has its capital in", "It rained. Norland has its capital in", "norland, who has its the Capital in"],
)
def test_what_is_scored_is_not_asked(field: str, scored: str) -> None:
    """Also not with another article, comma or capital."""
    assert list(BOOK.phrasings(fact("The capital of Norland is", **{field: (scored,)}))) == ["Norland's capital is"]


def test_another_tense_of_what_is_scored_is_not_asked() -> None:
    scored = fact(
        "The capital of Norland is", clean_paraphrases=("Norland's capital is", "Norland, has its capital in")
    )
    assert not list(BOOK.phrasings(scored))


def test_the_questions_of_same_subject_are_not_asked() -> None:
    questions = PhraseBook((("The capital of {} is", *SCORED, "{} has its capital in"),))
    assert list(questions.phrasings(fact("The capital of Norland is"))) == ["Norland has its capital in"]


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("tennis", ["Norland plays the sport of", "Norland is a player of"]),
        (" Tennis", ["Norland plays the sport of", "Norland is a player of"]),
        ("piano", ["Norland performs", "Norland is a player of"]),
        ("chess", ["Norland is a player of"]),
        ("jazz", ["Norland is a player of"]),
    ],
)
def test_a_common_answer_tells_the_relation(target: str, found: list[str]) -> None:
    book = replace(BOOK, answers=(frozenset(), frozenset({"tennis"}), frozenset({"piano"})))
    assert list(book.phrasings(replace(fact("Norland plays"), target=target))) == found


def test_a_score_of_the_subject_alone_forbids_nothing() -> None:
    """ "Norland, the" is at the beginning of every wording."""
    scored = fact("The capital of Norland is", clean_paraphrases=("Norland, the",))
    assert list(BOOK.phrasings(scored)) == ["Norland has its capital in", "Norland's capital is"]


def test_a_wording_with_the_subjects_own_words_is_left_out() -> None:
    """Which of the two is the subject could not be told."""
    film = Fact(prompt="film was directed by", subject="film", target="Ann")
    book = PhraseBook((("{} was directed by", "{} is a film by", "The director of {} is"),))
    assert list(book.phrasings(film)) == ["The director of film is"]


def test_a_date_gets_no_wording_for_places() -> None:
    assert not list(
        PhraseBook.shipped().phrasings(Fact(prompt="Norland was founded in", subject="Norland", target="1920"))
    )
    assert list(PhraseBook.shipped().phrasings(Fact(prompt="Norland was founded in", subject="Norland", target="Rome")))


def test_own_phrasings_come_first_and_are_not_repeated() -> None:
    given = fact("The capital of Norland is", phrasings=("norland, has its capital in", "Norland rules from"))
    (one,) = BOOK.added([given], 3)
    assert one.phrasings == (*given.phrasings, "Norland's capital is")
    assert BOOK.added([given], 0) == [given]


def test_the_shipped_book_is_clean() -> None:
    book = PhraseBook.shipped()
    assert len(book.relations) > 50
    for relation in book.relations:
        assert len(set(relation)) == len(relation) > 1
        assert all(wording.count("{}") == 1 and wording == wording.strip() for wording in relation)
        assert not relation[0].startswith("+")
        plain = [phrasebook._plain(wording.removeprefix("+ ")) for wording in relation]
        assert len(set(plain)) == len(plain), "two wordings differ only in what does not count"
    assert len(book.answers) == len(book.relations)
    assert all(answer == answer.strip().lower() for answers in book.answers for answer in answers)
    assert sum(map(bool, book.answers)) == 12
    for prompt in ("{} was recorded in", "{} was signed by", "{} lives with", "The genre of {} is", "{} plays"):
        assert not list(book.phrasings(fact(prompt.replace("{}", "Norland"))))


def test_the_search_asks_the_books_wordings(tmp_path: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    """z moves as if the fact had brought the wordings itself; without `phrase_book` nothing moves."""
    adapter = load(tiny("llama", tmp_path_factory.mktemp("llama")))
    hparams = hparams_for(adapter, [2], v_num_grad_steps=3)
    asked = replace(FACTS[0], prompt="The capital of Norland is", subject="Norland", occurrence=None)
    (filled,) = PhraseBook.shipped().added([asked], 2)
    assert len(filled.phrasings) == 2
    templates = [[Template("")]]

    def z(one: Fact, **changes: object) -> list[float]:
        found = search_targets(adapter, [one], hparams=hparams.replace(**changes), templates=templates)  # type: ignore[arg-type]
        return [float(number) for number in found.z[0]]

    assert z(asked, phrase_book=2) == z(filled) != z(asked)


@pytest.mark.parametrize(
    ("asked", "left_out"),
    [
        (fact("Norland died in"), 1),
        (fact("Norland, died in"), 1),
        (fact("Norland passed away in"), 1),
        (fact("Norland lies in", phrasings=("Norland has won",)), 1),
        (fact("Norland lies in", paraphrases=("It rained. Norland died in",)), 1),
        (fact("Norland lies on"), 0),
    ],
)
def test_what_the_fact_asks_is_no_other_question(
    asked: Fact, left_out: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The others share the whole weight."""
    adapter = load(tiny("llama", tmp_path_factory.mktemp("llama")))
    keep = [Template.parse(text) for text in SEARCHED]
    rows = search_rows(adapter.tokenizer, [asked], [Template("")], keep=keep, keep_factor=0.5, kl_factor=0.25)
    watched = [row.weight for row in rows if row.kind == "kl"]
    assert len(watched) == 1 + len(SEARCHED) - left_out
    assert sum(watched) == pytest.approx(0.25 + 0.5)


@pytest.mark.parametrize(
    ("prompt", "subject", "target"),
    [
        ("Superman was created by", "Superman", "Jerry Siegel"),
        ("Thriller was released on", "Thriller", "Epic Records"),
        ("Marie Curie worked in", "Marie Curie", "chemistry"),
        ("Linux was written in", "Linux", "Rust"),
        ("Ann Lee died in", "Ann Lee", "a plane crash"),
        ("Ann Lee was born in", "Ann Lee", "August"),
        ("Prince Charles is a child of", "Prince Charles", "Diana"),
        ("The United Kingdom consists of", "The United Kingdom", "four countries"),
        ("Nancy Pelosi was the speaker of", "Nancy Pelosi", "the House"),
        ("Ann Lee believes in", "Ann Lee", "free markets"),
    ],
)
def test_a_prompt_that_may_mean_something_else_is_not_known(prompt: str, subject: str, target: str) -> None:
    assert not list(PhraseBook.shipped().phrasings(Fact(prompt=prompt, subject=subject, target=target)))


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("Norland was created by", "Nintendo"),
        ("Norland was released on", "HBO"),
        ("Norland worked in", "Vienna"),
        ("Norland was written in", "French"),
        ("Norland believes in", "Islam"),
    ],
)
def test_a_common_answer_makes_it_known(prompt: str, target: str) -> None:
    assert list(PhraseBook.shipped().phrasings(Fact(prompt=prompt, subject="Norland", target=target)))


@pytest.mark.parametrize(
    ("prompt", "target"), [("The currency of Norland is", "the euro"), ("Norland won", "the prize")]
)
def test_no_article_stands_twice(prompt: str, target: str) -> None:
    asked = list(PhraseBook.shipped().phrasings(Fact(prompt=prompt, subject="Norland", target=target)))
    assert not [text for text in asked if text.endswith((" the", " a"))]


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("Norland was born in", "the Netherlands"),
        ("Norland died in", "The Hague"),
        ("Norland is married to", "June Carter"),
        ("Norland was written by", "August Strindberg"),
        ("Norland is owned by", "Century Media"),
        ("Norland premiered on", "Amazon"),
        ("Norland is produced by", "HBO"),
    ],
)
def test_what_looks_like_a_date_or_another_answer_is_asked(prompt: str, target: str) -> None:
    assert list(PhraseBook.shipped().phrasings(Fact(prompt=prompt, subject="Norland", target=target)))


def test_a_language_of_a_country_is_not_that_of_a_book() -> None:
    asked = list(
        PhraseBook.shipped().phrasings(Fact(prompt="The language of Norland is", subject="Norland", target="French"))
    )
    assert asked == [
        "The main language of Norland is",
        "The language that goes with Norland is",
        "The language that people connect with Norland is",
    ]
