"""Facts that are written are read back unchanged, in all three formats."""

from __future__ import annotations

import io
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memit_vc.edits import duplicates, read_edits, write_records
from memit_vc.edits.odd import odd_characters
from memit_vc.edits.records import as_a_word
from memit_vc.objects import Fact, Probe, as_seen
from memit_vc.objects.seen import occurrences

TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\n\t{}",;[]'), min_size=1, max_size=20
).filter(as_seen)
PROBE = st.builds(lambda prompt, answer: Probe(prompt=prompt, answer=answer), TEXT, st.none() | TEXT.map(str.strip))


@st.composite
def facts(draw: st.DrawFn) -> Fact:
    """As the parser makes them: no spaces around subjects, targets and answers, after prompts."""
    subject = draw(TEXT).strip()
    prompt = (draw(TEXT) + subject + draw(TEXT)).rstrip(" ")
    count = len(occurrences(subject, prompt))
    target = draw(TEXT).strip()
    occurrence = draw(st.none() | st.integers(0, count - 1))
    if occurrence == count - 1 and as_a_word(prompt, subject, []) is not None:
        occurrence = None  # where a reader would take an earlier place, a record says the last one, and means it so
    return Fact(
        prompt=prompt,
        subject=subject,
        target=target,
        ground_truth=draw(st.none() | TEXT.map(str.strip)),
        paraphrases=tuple(draw(st.lists(TEXT, max_size=3))),
        neighbourhood=tuple(draw(st.lists(PROBE, max_size=3))),
        occurrence=occurrence,
    )


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
@given(batch=st.lists(facts(), min_size=1, max_size=4).filter(lambda batch: not duplicates(batch)))
def test_round_trip(form: Literal["json", "jsonl", "csv"], batch: list[Fact]) -> None:
    text = write_records(batch, format=form)
    assert text.endswith("\n")
    again = read_edits("-", stdin=io.BytesIO(text.encode()))
    assert again.facts == tuple(batch)
    notes = [
        note for note in again.notes if "only as a part of a longer word" not in note and "the old answer" not in note
    ]
    assert len(notes) == len({note for fact in batch for note in odd_characters(fact)})


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("occurrence", [None, 1])
def test_the_last_place_is_read_back_where_a_reader_would_take_another(
    form: Literal["json", "jsonl", "csv"], occurrence: int | None
) -> None:
    fact = Fact(prompt="Java, not JavaScript, is", subject="Java", target="old", occurrence=occurrence)
    (again,) = read_edits("-", stdin=io.BytesIO(write_records([fact], format=form).encode())).facts
    assert again.occurrence is None
    assert again.subject_span == fact.subject_span == (10, 14)


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_nothing(form: Literal["json", "jsonl"]) -> None:
    assert write_records([], format=form) in ("[]\n", "")
