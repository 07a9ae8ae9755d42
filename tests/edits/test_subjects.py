"""The subject of a prompt that came without one: right, or refused."""

from __future__ import annotations

import json

import pytest

from memit_vc.edits import find_subject, parse_records, read_edits, subject_candidates
from memit_vc.errors import EditFileError
from tests.support.paths import SHARED


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("What university did Watts Humphrey attend?", "Watts Humphrey"),
        ("Which family does Ramalinaceae belong to", "Ramalinaceae"),
        ("What role does Denny Herzig play in football?", "Denny Herzig"),
        ("The official religion of Edwin of Northumbria is", "Edwin of Northumbria"),
        ("What is the twin city of Lyon? It is", "Lyon"),
        ("What is Lyon's twin city?", "Lyon"),
        ("McDonald's was founded by", "McDonald's"),
        ("Who is J. R. R. Tolkien?", "J. R. R. Tolkien"),
        ("Who is J.K. Rowling?", "J.K. Rowling"),
        ('Who wrote "The Old Man and the Sea"?', "The Old Man and the Sea"),
        ("Who wrote ‘War and Peace’ first", "War and Peace"),
        ("What is the capital of Côte d'Ivoire?", "Côte d'Ivoire"),
        ("Where was Conan O’Brien born?", "Conan O’Brien"),
        ("Who wrote Symphony No. 5?", "Symphony No. 5"),
        ("Where was Martin Luther King, Jr. born?", "Martin Luther King, Jr."),
        ("Who runs Johnson & Johnson?", "Johnson & Johnson"),
        ("Which company made the Boeing 747-400?", "Boeing 747-400"),
        ("where did Ludwig van Beethoven live", "Ludwig van Beethoven"),
        ("Where is St. Louis?", "St. Louis"),
        ("Who founded 3M?", "3M"),
        ("who makes the iPhone 12", "iPhone 12"),
        ("Alexander the Great's mother was", "Alexander the Great"),
        ("In football, where does Denny Herzig play", "Denny Herzig"),
        ("How many people live in Rome? Rome has", "Rome"),
        ("Schindler's List was directed by", "Schindler's List"),
        ("Does Émile Zola", "Émile Zola"),
    ],
)
def test_found(prompt: str, subject: str) -> None:
    candidate = find_subject(prompt)
    assert candidate is not None
    assert candidate.text == subject
    assert prompt[candidate.start : candidate.end] == subject


@pytest.mark.parametrize(
    ("prompt", "candidates"),
    [
        ("Rome is in Italy", ["Rome", "Italy"]),
        ("What is France's GDP?", ["France", "GDP"]),
        ("Did Paris, Texas", ["Paris", "Texas"]),
        ("People say that", ["People"]),
        ("the sky is", []),
        ("What is it?", []),
        ("I think so", []),
        ("中国的首都是", []),
        ("", []),
    ],
)
def test_refused(prompt: str, candidates: list[str]) -> None:
    assert find_subject(prompt) is None
    assert [c.text for c in subject_candidates(prompt)] == candidates


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("Quantum mechanics was founded by", "Quantum"),
        ("Porcupine grass grows in", "Porcupine"),
        ("Solar panels were invented in", "Solar"),
        ("Which pigment is named after an Italian city?", "Italian"),
        ("Who is the most famous Italian painter?", "Italian"),
        ("Where does Kashmiri curry come from?", "Kashmiri"),
        ("Which river flows through northern Europe?", "Europe"),
        ("What date is associated with Golaghat massacre?", "Golaghat"),
        ("Which town lies on the Loire river?", "Loire"),
        ("What is the status of Dipterocarpus gracilis?", "Dipterocarpus"),
        ("Which language is Giochi per il mio computer written in?", "Giochi"),
        ("The language of Du gamla, du fria was", "Du"),
        ("The language of Re! was", "Re"),
        ("Tracey Takes On... premieres on", "Tracey Takes On"),
        ("What species is UGT1A@ specific to?", "UGT1A"),
        ("Savdhaan India @ 11, formulated in", "Savdhaan India"),
        ("Microsoft Plus! is developed by", "Microsoft Plus"),
        ("2004 Indian Ocean earthquake is located in", "Indian Ocean"),
        ("The location of 2006 World Cup is", "World Cup"),
        ("What is Moore's law about?", "Moore"),
        ("UBM plc's headquarters are in", "UBM"),
        ("BMW i3, produced by", "BMW"),
        ("What family is Halenia's?", "Halenia's"),
    ],
)
def test_a_name_that_may_go_on_is_refused_and_named(prompt: str, named: str) -> None:
    assert find_subject(prompt) is None
    with pytest.raises(EditFileError, match=rf'where it ends is not certain: "{named}"') as caught:
        parse_records([{"prompt": prompt, "target_new": "x"}], source="x")
    assert caught.value.hint is not None
    assert 'Give "subject"' in caught.value.hint


@pytest.mark.skipif(not (SHARED / "data/counterfact.json").exists(), reason="CounterFact is not here")
def test_counterfact_without_its_subjects() -> None:
    """An edit hangs on the subject's last word: wherever a subject is found it is right, and most are found."""
    facts = read_edits(SHARED / "data/counterfact.json").facts
    found = [(fact, candidate) for fact in facts if (candidate := find_subject(fact.prompt)) is not None]
    assert len(found) > 0.89 * len(facts)
    assert [candidate.text for fact, candidate in found if fact.subject_span[1] != candidate.end] == []


@pytest.mark.skipif(not (SHARED / "data/zsre_mend.json").exists(), reason="zsRE is not here")
def test_zsre_without_its_subjects() -> None:
    records = json.loads((SHARED / "data/zsre_mend.json").read_text(encoding="utf-8"))
    asked = [(record["src"], record["subject"]) for record in records if record["subject"] in record["src"]]
    found = [(src, name, each) for src, name in asked if (each := find_subject(src)) is not None]
    assert len(found) > 0.8 * len(asked)
    assert [each.text for src, name, each in found if src.rfind(name) + len(name) != each.end] == []


@pytest.mark.parametrize(
    ("prompt", "subject", "start"),
    [
        ("Java is older than JavaScript. It was created by", "Java", 0),
        ("Go was designed at Google by", "Go", 0),
        ("Rome, not Romania, lies in Rome", "Rome", 27),
        ("日本の首都は東京都の", "東京", 6),
    ],
)
def test_a_subject_is_a_word_of_its_own(prompt: str, subject: str, start: int) -> None:
    batch = parse_records([{"prompt": prompt, "subject": subject, "target_new": "x"}], source="x")
    assert batch.facts[0].subject_span == (start, start + len(subject))
    assert [note for note in batch.notes if "its last place as a word was taken" not in note] == []
    assert (batch.notes == ()) == (prompt.rfind(subject) == start)
    assert batch.facts[0].span_in(prompt) == (start, start + len(subject))


def test_a_subject_within_a_longer_word_is_told() -> None:
    record = {"prompt": "The Romer family comes from", "subject": "Rome", "target_new": "x"}
    assert "only as a part of a longer word" in parse_records([record], source="x").notes[0]
