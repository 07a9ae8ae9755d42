"""Every format of an edit file gives the facts it says."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from memit_vc.edits import EditBatch, duplicates, parse_records, read_edits
from memit_vc.objects import Fact, Probe
from memit_vc.vcs.contradictions import contradicting
from tests.support.paths import SHARED

EASYEDIT = {
    "case_id": 0,
    "prompt": "The mother tongue of Danielle Darrieux is",
    "target_new": "English",
    "subject": "Danielle Darrieux",
    "ground_truth": "French",
    "rephrase_prompt": "Danielle Darrieux spoke",
    "locality_prompt": "Michel Rocard is a native speaker of",
    "locality_ground_truth": "French",
}
FACT = Fact(
    prompt="The mother tongue of Danielle Darrieux is",
    subject="Danielle Darrieux",
    target="English",
    ground_truth="French",
    paraphrases=("Danielle Darrieux spoke",),
    neighbourhood=(Probe(prompt="Michel Rocard is a native speaker of", answer="French"),),
)
COUNTERFACT = {
    "case_id": 0,
    "pararel_idx": 2796,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["Danielle Darrieux spoke"],
    "neighborhood_prompts": ["Michel Rocard is a native speaker of"],
    "attribute_prompts": ["X"],
    "generation_prompts": ["Y"],
}


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def one(record: object) -> Fact:
    batch = parse_records([record], source="x")  # type: ignore[list-item]
    assert len(batch.facts) == 1
    return batch.facts[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("edits.json", json.dumps([EASYEDIT])),
        ("edits.json", json.dumps(EASYEDIT)),
        ("edits.json", "\ufeff" + json.dumps([EASYEDIT], indent=2)),
        ("edits.jsonl", json.dumps(EASYEDIT) + "\n\n"),
        ("edits.json", json.dumps(EASYEDIT) + "\n" + json.dumps({**EASYEDIT, "prompt": "Danielle Darrieux said"})),
        ("edits.jsonl", json.dumps([EASYEDIT])),
        ("edits", json.dumps([EASYEDIT])),
        ("edits.csv", ",".join(EASYEDIT) + "\n" + ",".join(str(v) for v in EASYEDIT.values()) + "\r\n,,,\n"),
        ("edits.txt", ";".join(EASYEDIT) + "\n" + ";".join(str(v) for v in EASYEDIT.values())),
        ("edits.tsv", "\t".join(EASYEDIT) + "\n" + "\t".join(str(v) for v in EASYEDIT.values())),
    ],
)
def test_files(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path, name, text)
    batch = read_edits(path)
    assert batch.facts[0] == FACT
    assert batch.origins[0] == f"{path}: record 1"
    assert batch.notes == ()


@pytest.mark.parametrize(
    "text", [json.dumps([EASYEDIT]), json.dumps(EASYEDIT) + "\n", "prompt,target_new\nRome is,red\n"]
)
def test_standard_input_is_sniffed(text: str) -> None:
    batch = read_edits("-", stdin=io.BytesIO(text.encode()))
    assert len(batch.facts) == 1
    assert batch.origins == ("standard input: record 1",)


def test_counterfact_records() -> None:
    fact = one(COUNTERFACT)
    assert fact == Fact(
        prompt=FACT.prompt,
        subject=FACT.subject,
        target="English",
        ground_truth="French",
        paraphrases=("Danielle Darrieux spoke",),
        generation_prompts=("Y",),
        neighbourhood=(Probe(prompt="Michel Rocard is a native speaker of"),),
    )
    with_targets = {**COUNTERFACT, "neighborhood_prompts": [{"prompt": "Michel Rocard speaks", "target": "French"}]}
    assert one(with_targets).neighbourhood == (Probe(prompt="Michel Rocard speaks", answer="French"),)


def test_a_flat_memit_request() -> None:
    record = {"prompt": "{} plays", "subject": "LeBron James", "target_new": {"str": " football"}}
    assert one(record) == Fact(prompt="LeBron James plays", subject="LeBron James", target="football")


def test_braces_are_a_gap_only_where_the_subject_is_not_in_the_prompt() -> None:
    assert one({"prompt": "In {} they speak", "subject": "Rome", "target_new": "x"}).prompt == "In Rome they speak"
    for text in ("Rome writes {} for", "Rome {x} and {y}", "Rome {", "Rome {} and {}"):
        assert one({"prompt": text, "subject": "Rome", "target_new": "{}"}).prompt == text


def test_the_gap_decides_which_occurrence_is_meant() -> None:
    record = {"prompt": "{} is not New York, is", "subject": "New York", "target_new": {"str": "x"}}
    fact = one(record)
    assert fact.occurrence == 0
    assert fact.subject_span == (0, 8)
    last = one({**record, "prompt": "New York is not {}, is"})
    assert last.occurrence is None
    assert last.subject_span == (16, 24)


def test_an_occurrence_that_is_asked_for() -> None:
    record = {"prompt": "Rome, Rome is", "subject": "Rome", "target_new": "x", "subject_occurrence": 0}
    assert one(record).subject_span == (0, 4)


def test_easyedits_lists_and_nested_probes() -> None:
    record = {
        "prompt": "Rome is in",
        "subject": "Rome",
        "target_new": "Spain",
        "ground_truth": ["Italy", "Italia"],
        "rephrase_prompt": ["Rome lies in", None, "Where is Rome? In"],
        "locality": {
            "neighborhood": {"prompt": ["Paris is in", "Berlin is in"], "ground_truth": ["France", None]},
            "Relation_Specificity": [{"prompt": "Rome's mayor is", "ground_truth": [["Gualtieri"], ["x"]]}],
        },
        "portability": {"one_hop": {"prompt": "Rome's king is", "ground_truth": "Felipe"}},
    }
    batch = parse_records([record, {**record, "prompt": "Rome is near"}], source="x")
    fact = batch.facts[0]
    assert fact.ground_truth == "Italy"
    assert fact.paraphrases == ("Rome lies in", "Where is Rome? In")
    assert [(p.prompt, p.answer) for p in fact.neighbourhood] == [
        ("Paris is in", "France"),
        ("Berlin is in", None),
        ("Rome's mayor is", "Gualtieri"),
    ]
    assert batch.notes == ("records 1, 2: portability prompts are not scored and were ignored",)


def test_targets_lose_the_white_space_around_them() -> None:
    batch = parse_records([{"prompt": "Rome is", "subject": "Rome", "target_new": "  the  city \n"}], source="x")
    assert batch.facts[0].target == "the  city"
    assert batch.notes == ("record 1: white space around the target was removed",)
    plain = parse_records([{"prompt": "Rome is", "subject": "Rome", "target_new": " the  city"}], source="x")
    assert plain.facts == batch.facts
    assert plain.notes == ()


def test_keys_of_a_rewrite_that_are_not_read_are_named() -> None:
    rewrite = {"prompt": "{} is in", "subject": "Rome", "target_new": {"str": "Peru"}, "phrasing": ["{} lies in"]}
    batch = parse_records([{"requested_rewrite": rewrite}], source="x")
    assert batch.notes == ('record 1: unknown key "phrasing" was ignored; did you mean "phrasings"?',)


def test_a_space_at_the_end_of_the_prompt_would_stand_twice() -> None:
    batch = parse_records([{"prompt": "Rome is ", "subject": "Rome ", "target_new": "x"}], source="x")
    assert batch.facts[0].prompt == "Rome is"
    assert batch.facts[0].subject == "Rome"
    assert len(batch.notes) == 2


def test_a_missing_subject_is_found_and_said() -> None:
    records = [EASYEDIT, {"prompt": "What university did Watts Humphrey attend?", "target_new": "Michigan"}]
    batch = parse_records(records, source="x")
    assert batch.facts[1].subject == "Watts Humphrey"
    assert batch.notes == ('record 2: subject "Watts Humphrey" found in the prompt',)


def test_keys_that_are_not_read_are_said() -> None:
    record = {"prompt": "Rome is", "subject": "Rome", "target_new": "x", "rephrase_prompts": "y", "comment": "z"}
    batch = parse_records([{**record, "relation_id": "P1", "case_id": 3}], source="x")
    assert batch.notes == (
        'record 1: unknown key "rephrase_prompts" was ignored; did you mean "rephrase_prompt"?',
        'record 1: unknown key "comment" was ignored',
    )
    again = parse_records([{**record, "rephrase_prompt": "y", "comment": None}], source="x")
    assert again.notes == ('record 1: unknown key "rephrase_prompts" was ignored',)


def test_duplicates_are_left_out_and_contradictions_kept() -> None:
    other = {**EASYEDIT, "target_new": "Dutch"}
    batch = parse_records([EASYEDIT, other, {**EASYEDIT, "rephrase_prompt": "x"}], source="x")
    assert [f.target for f in batch.facts] == ["English", "Dutch"]
    assert batch.notes == ("record 3: repeats record 1, left out",)
    assert contradicting(batch.facts) == [(batch.facts[0], batch.facts[1])]
    assert duplicates(batch.facts) == []
    every = parse_records([EASYEDIT, other, EASYEDIT], source="x", deduplicate=False)
    assert len(every.facts) == 3
    assert duplicates(every.facts) == [(0, 2)]


def test_ten_thousand_records_are_one_batch() -> None:
    records = [{**EASYEDIT, "prompt": f"The tongue number {n} of Danielle Darrieux is"} for n in range(10_000)]
    batch = read_edits("-", stdin=io.BytesIO(json.dumps(records).encode()))
    assert len(batch.facts) == 10_000
    assert batch.origins[-1] == "standard input: record 10000"


def check_all(batch: EditBatch, expected: int, notes: tuple[str, ...] = ()) -> None:
    assert len(batch.facts) == expected
    assert batch.notes == notes
    for fact in batch.facts:
        start, end = fact.subject_span
        assert fact.prompt[start:end] == fact.subject


@pytest.mark.skipif(not (SHARED / "data/counterfact.json").exists(), reason="CounterFact is not here")
def test_counterfact() -> None:
    unseen = "holds U+00A0 (no-break space), which the model reads and nobody sees"
    notes = (
        f'records 188, 957, 1288, 1365: "neighborhood_prompts": {unseen}',
        f'records 1124, 1394: "paraphrase_prompts": {unseen}',
    )
    check_all(read_edits(SHARED / "data/counterfact.json"), 2000, notes)


@pytest.mark.skipif(not (SHARED / "golden").is_dir(), reason="the golden cases are not here")
@pytest.mark.parametrize(("case", "n"), [("gpt2", 8), ("llama", 8), ("gptj", 8), ("smollm2-135m", 4)])
def test_golden_requests(case: str, n: int) -> None:
    check_all(read_edits(SHARED / "golden" / case / "requests.json"), n)
