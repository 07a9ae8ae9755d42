"""The subject of a prompt that came without one: right, or refused."""

from __future__ import annotations

import pytest

from memit_vc.edits import find_subject, read_edits
from tests.support.paths import SHARED


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("What university did Watts Humphrey attend?", "Watts Humphrey"),
        ("Which family does Ramalinaceae belong to", "Ramalinaceae"),
        ("What role does Denny Herzig play in football?", "Denny Herzig"),
        ("The official religion of Edwin of Northumbria is", "Edwin of Northumbria"),
        ("What is the twin city of Lyon? It is", "Lyon"),
        ("People say that", "People"),
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
    (candidate,) = find_subject(prompt)
    assert candidate.text == subject
    assert prompt[candidate.start : candidate.end] == subject


@pytest.mark.parametrize(
    ("prompt", "candidates"),
    [
        ("Rome is in Italy", ["Rome", "Italy"]),
        ("What is France's GDP?", ["France", "GDP"]),
        ("Did Paris, Texas", ["Paris", "Texas"]),
        ("the sky is", []),
        ("What is it?", []),
        ("I think so", []),
        ("中国的首都是", []),
        ("", []),
    ],
)
def test_refused(prompt: str, candidates: list[str]) -> None:
    assert [c.text for c in find_subject(prompt)] == candidates


@pytest.mark.skipif(not (SHARED / "data/counterfact.json").exists(), reason="CounterFact is not here")
def test_counterfact_without_its_subjects() -> None:
    """The last word is what an edit hangs on: it is right in nearly all prompts where a subject is found."""
    facts = read_edits(SHARED / "data/counterfact.json").facts
    found = [(fact, candidates[0]) for fact in facts if len(candidates := find_subject(fact.prompt)) == 1]
    assert len(found) > 0.95 * len(facts)
    same_end = sum(fact.subject_span[1] == candidate.end for fact, candidate in found)
    assert same_end > 0.97 * len(found)
