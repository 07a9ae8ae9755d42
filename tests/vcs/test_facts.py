"""Which facts are live, which contradict each other, and which patch supplies a column."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memit_vc.errors import IntegrityError
from memit_vc.objects import ColumnId, Fact, FactId, PatchId, as_seen
from memit_vc.vcs.contradictions import contradicting
from memit_vc.vcs.facts import live_fact_columns
from memit_vc.vcs.selection import select_columns


def _columns(text: str) -> list[ColumnId]:
    return [ColumnId(c) for c in text.split()]


def test_a_cancel_takes_the_fact_out_wherever_it_stands() -> None:
    f, g = FactId("f"), FactId("g")
    facts = {
        ColumnId("1"): [(f, "edit")],
        ColumnId("2"): [(g, "edit")],
        ColumnId("3"): [(f, "cancel")],
        ColumnId("4"): [(f, "edit"), (g, "edit")],
    }
    assert live_fact_columns(_columns("1 2"), facts) == [(f, "1"), (g, "2")]
    assert live_fact_columns(_columns("1 2 3"), facts) == [(g, "2")]
    assert live_fact_columns(_columns("3 1"), facts) == []
    assert live_fact_columns(_columns("1 2 4"), facts) == [(f, "4"), (g, "4")]


def test_contradictions_are_pairs_with_one_question() -> None:
    def ask(subject: str, target: str, prompt: str = "{} is in") -> Fact:
        return Fact(prompt=prompt.replace("{}", subject), subject=subject, target=target)

    paris, lyon, spaced = ask("Paris", "Spain"), ask("Lyon", "Italy"), ask("Paris", " Spain ")
    other = ask("Paris", "Chile")
    assert contradicting([paris, lyon, spaced]) == []
    assert contradicting([paris, lyon, other]) == [(paris, other)]
    assert contradicting([paris, spaced, other]) == [(paris, other), (spaced, other)]
    assert contradicting([paris, ask("Paris", "Chile", "{} lies in")]) == []


@pytest.mark.parametrize(
    "spelt",
    [
        unicodedata.normalize("NFD", "Élodie Müller speaks"),
        "\ufeffÉlodie Müller speaks",
        "Élodie Mül\u200bler speaks",
        "Élodie\u00a0Müller  speaks",
        "E\u200d\u0301lodie Müller speaks",
        "Élodie Müller ｓｐｅａｋｓ",
    ],
)
def test_texts_are_compared_as_people_see_them(spelt: str) -> None:
    plain = Fact(prompt="Élodie Müller speaks", subject="Élodie Müller", target="Finnish")
    other = Fact(prompt=spelt, subject=spelt.removesuffix(" speaks").removesuffix(" ｓｐｅａｋｓ"), target="Polish")
    assert contradicting([plain, other]) == [(plain, other)]
    same = replace(other, target="Fin\u200bnish")
    assert contradicting([plain, same]) == []
    assert plain.claim == same.claim
    assert plain.id != same.id


names = st.sampled_from(_columns("a b c d e f g h"))
layouts = st.dictionaries(
    st.sampled_from([PatchId(p) for p in "pqrst"]), st.lists(names, min_size=1, max_size=6, unique=True).map(tuple)
)


@given(layouts, st.data())
def test_each_column_is_supplied_exactly_once(layout: dict[PatchId, tuple[ColumnId, ...]], data: st.DataObject) -> None:
    known = sorted({column for held in layout.values() for column in held})
    wanted = data.draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    preferred = data.draw(st.sets(st.sampled_from(sorted(layout)))) if layout else set()
    chosen = select_columns(wanted, layout, (), preferred)
    supplied = [layout[patch][n] for patch, positions in chosen.items() for n in positions]
    assert sorted(supplied) == sorted(wanted)
    assert all(positions == tuple(sorted(positions)) and positions for positions in chosen.values())
    assert chosen == select_columns(list(reversed(wanted)), dict(reversed(layout.items())), (), preferred)
    if preferred:
        best = {column for patch in preferred for column in layout[patch]} & set(wanted)
        assert best == {layout[p][n] for p, positions in chosen.items() if p in preferred for n in positions}


def test_a_column_that_nobody_holds_is_named() -> None:
    with pytest.raises(IntegrityError, match="column a and 1 more"):
        select_columns(_columns("a b"), {}, ())


@pytest.mark.parametrize(("one", "other"), [("10² is", "102 is"), ("H₂O is", "H2O is"), ("½ is", "1⁄2 is")])
def test_what_is_raised_or_lowered_is_another_question(one: str, other: str) -> None:
    assert as_seen(one) != as_seen(other)
