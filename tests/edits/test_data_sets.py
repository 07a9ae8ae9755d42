"""Records of the field's data sets under their own key names."""

from __future__ import annotations

from typing import Any

import pytest

from memit_vc.edits import parse_records, read_edits
from memit_vc.errors import EditFileError
from memit_vc.objects import Fact, Probe
from tests.support.paths import SHARED

UNIFIRST = Fact(
    prompt="What is the product made by UniFirst?",
    subject="UniFirst",
    target="aircraft",
    ground_truth="uniform",
    paraphrases=("What will be the product of UniFirst?",),
    neighbourhood=(Probe(prompt="who is it", answer="Walter"),),
)
PROMPT, REPHRASE = UNIFIRST.prompt, UNIFIRST.paraphrases[0]
LOC = {"loc": "nq question: who is it", "loc_ans": "Walter"}


@pytest.mark.parametrize(
    ("record", "names"),
    [
        (
            {"src": PROMPT, "pred": "x", "rephrase": REPHRASE, "alt": "aircraft", "answers": ["uniform", "y"], **LOC},
            ("src", "alt"),
        ),
        (
            {"tag": "t", "update": PROMPT, "rephrase": REPHRASE, "ans": "aircraft", "ground_truth": "uniform", **LOC},
            ("update", "ans"),
        ),
        (
            {
                "prompt": PROMPT,
                "target": "aircraft",
                "rephrase": REPHRASE,
                "ground_truth": "uniform",
                "locality": [LOC],
            },
            ("prompt", "target"),
        ),
        (
            {"question": PROMPT, "answer": "aircraft", "para_question": REPHRASE, "ground_truth": "uniform", **LOC},
            ("question", "answer"),
        ),
    ],
    ids=["zsRE", "WikiBigEdit", "QAEdit", "UnKE"],
)
def test_other_names_for_the_same(record: dict[str, Any], names: tuple[str, str]) -> None:
    batch = parse_records([{"subject": "UniFirst", **record}], source="x")
    assert batch.facts == (UNIFIRST,)
    assert batch.notes == (
        f'record 1: "{names[0]}" was read as the prompt, "{names[1]}" as the new answer',
        'record 1: "nq question:" before "loc" was removed',
    )


def test_our_names_win() -> None:
    record = {
        "prompt": "Rome is in",
        "subject": "Rome",
        "target_new": "Spain",
        "alt": "x",
        "src": "y",
        "answers": ["z"],
    }
    batch = parse_records([record], source="x")
    assert batch.facts == (Fact(prompt="Rome is in", subject="Rome", target="Spain"),)
    assert batch.notes == ()


def mquake() -> dict[str, Any]:
    rewrite = {"prompt": "{} is a citizen of", "subject": "Ellie", "target_new": {"str": "Croatia"}}
    first = {**rewrite, "target_true": {"str": "Peru"}, "question": "What is the country of citizenship of Ellie?"}
    return {"case_id": 1, "requested_rewrite": [first, {**rewrite, "subject": "Ana"}], "questions": ["Where?"]}


def test_each_of_several_rewrites_is_a_fact() -> None:
    good = {"prompt": "Rome is in", "subject": "Rome", "target_new": "Spain"}
    batch = parse_records([mquake(), good], source="x")
    assert [(fact.prompt, fact.target) for fact in batch.facts] == [
        ("Ellie is a citizen of", "Croatia"),
        ("Ana is a citizen of", "Croatia"),
        ("Rome is in", "Spain"),
    ]
    assert batch.facts[0].ground_truth == "Peru"
    assert batch.facts[0].paraphrases == ("What is the country of citizenship of Ellie?",)
    assert batch.origins == ("x: record 1", "x: record 1", "x: record 2")
    assert batch.notes == (
        'record 1: "questions" is not scored and was ignored',
        "record 1: 2 rewrites, each of them is a fact",
    )


def test_a_rewrite_that_is_none() -> None:
    for rewrites, what in ((["x"], "holds a text"), ([], "is an empty list"), ("x", "is a text")):
        with pytest.raises(EditFileError, match=f'record 1: "requested_rewrite" {what}, not an object'):
            parse_records([{"requested_rewrite": rewrites}], source="x")


def test_missing_keys_are_named_with_what_they_may_be_called() -> None:
    with pytest.raises(EditFileError, match='"prompt" and "target_new" are missing') as caught:
        parse_records([{"query": "Where is Rome?", "label": "Spain"}], source="x")
    assert caught.value.hint is not None
    assert "Its keys are: query, label." in caught.value.hint
    assert '"target_new" may also be called alt' in caught.value.hint


@pytest.mark.skipif(not (SHARED / "data/counterfact_official.jsonl").exists(), reason="CounterFact is not here")
def test_counterfact_as_published() -> None:
    batch = read_edits(SHARED / "data/counterfact_official.jsonl")
    assert len(batch.facts) == 2000
    assert all(len(fact.paraphrases) == 2 and fact.neighbourhood for fact in batch.facts)


@pytest.mark.skipif(not (SHARED / "data/zsre_mend.json").exists(), reason="zsRE is not here")
def test_zsre_as_published() -> None:
    """One of its records has no answer, and it is named."""
    with pytest.raises(EditFileError, match='record 158: "target_new" is empty'):
        read_edits(SHARED / "data/zsre_mend.json")
