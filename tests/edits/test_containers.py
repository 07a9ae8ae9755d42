"""What edit files come packed in: pandas, spreadsheets, objects around the records."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from memit_vc.edits import EditBatch, read_edits
from memit_vc.errors import EditFileError

ROME = {"prompt": "Rome is in", "subject": "Rome", "target_new": "Spain", "ground_truth": "Italy"}
OSLO = {"prompt": "Oslo is in", "subject": "Oslo", "target_new": "Chile", "ground_truth": None}
MEMIT = {"requested_rewrite": {"prompt": "{} is in", "subject": "Rome", "target_new": {"str": "Spain"}}}


def read(text: str) -> EditBatch:
    return read_edits("-", stdin=io.BytesIO(text.encode()))


@pytest.mark.parametrize(
    "value",
    [
        {"data": [ROME, OSLO]},
        {"version": 1, "edits": [ROME, OSLO]},
        {"12": ROME, "13": OSLO},
        {key: {"0": ROME[key], "1": OSLO[key]} for key in ROME},
        {key: [ROME[key], OSLO[key]] for key in ROME},
        {"columns": list(ROME), "index": [0, 1], "data": [list(ROME.values()), list(OSLO.values())]},
    ],
    ids=["data", "other keys beside", "by number", "columns", "columns of lists", "split"],
)
def test_containers(value: Any) -> None:
    facts = read(json.dumps(value)).facts
    assert [(fact.prompt, fact.target, fact.ground_truth) for fact in facts] == [
        ("Rome is in", "Spain", "Italy"),
        ("Oslo is in", "Chile", None),
    ]


def test_one_record_is_no_container() -> None:
    assert [fact.prompt for fact in read(json.dumps(MEMIT)).facts] == ["Rome is in"]
    columns = {"requested_rewrite": {"0": MEMIT["requested_rewrite"]}, "case_id": {"0": 7}}
    assert [fact.prompt for fact in read(json.dumps(columns)).facts] == ["Rome is in"]
    nested = {**ROME, "locality": {"a": {"prompt": ["x", "y"], "ground_truth": ["1", "2"]}}}
    assert len(read(json.dumps(nested)).facts[0].neighbourhood) == 2


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"\x1f\x8b\x08rest", "a gzip archive"), (b"PK\x03\x04rest", "a ZIP archive or an Excel workbook")],
)
def test_packed_files_are_named(data: bytes, kind: str) -> None:
    with pytest.raises(EditFileError, match=f"is {kind}, not text") as caught:
        read_edits("-", stdin=io.BytesIO(data))
    assert caught.value.hint


@pytest.mark.parametrize("first", ["sep=;\r\n", "\ufeffsep=;\n", '"sep=;"\r', "SEP=;\r\n"])
def test_the_separator_that_excel_names(first: str) -> None:
    end = first[-1] if not first.endswith("\r\n") else "\r\n"
    (fact,) = read(f"{first}prompt;subject;target_new{end}Rome, the city, is in;Rome;Spain{end}").facts
    assert (fact.prompt, fact.target) == ("Rome, the city, is in", "Spain")


HEADER = "prompt,subject,target_new,ground_truth,rephrase_prompt\n"


def test_lists_as_python_writes_them() -> None:
    (fact,) = read(HEADER + 'Rome is in,Rome,Spain,Italy,"[\'Rome lies in\', ""Rome\'s in""]"\n').facts
    assert fact.paraphrases == ("Rome lies in", "Rome's in")


@pytest.mark.parametrize("cell", ["[Rome lies in", "[__import__('os')]", "[b'x']", "{1, 2}", "[" * 5000])
def test_a_cell_that_begins_like_a_list_and_is_none(cell: str) -> None:
    with pytest.raises(
        EditFileError, match='line 2: "rephrase_prompt" begins like a list, but cannot be read as one'
    ) as caught:
        read(HEADER + f'Rome is in,Rome,Spain,Italy,"{cell}"\n')
    assert caught.value.hint


def test_cells_that_stand_for_nothing() -> None:
    batch = read(HEADER + "Rome is in,Rome,Spain,nan,None\nOslo is in,nan,Chile,1987.0,\n")
    assert [(fact.ground_truth, fact.paraphrases) for fact in batch.facts] == [(None, ()), ("1987.0", ())]
    assert batch.facts[1].subject == "Oslo"
    assert batch.notes == (
        'record 1: "ground_truth" is nan, and was taken as empty',
        'record 1: "rephrase_prompt" is None, and was taken as empty',
        'record 2: "subject" is nan, and was taken as empty',
        'record 2: "ground_truth" is 1987.0: pandas writes whole numbers so beside empty cells',
        'record 2: subject "Oslo" found in the prompt',
    )
    with pytest.raises(EditFileError, match='record 1: "target_new" is missing'):
        read(HEADER + "Rome is in,Rome,nan,Italy,\n")
    assert read(HEADER + "Rome is in,Rome,None,Italy,\n").facts[0].target == "None"


def test_answers_that_pandas_wrote_as_objects_or_lists() -> None:
    rows = [
        ["prompt", "subject", "target_new", "ground_truth", "locality_prompt", "locality_ground_truth"],
        [
            "The capital of Norland is",
            "Norland",
            "{'str': 'Lisbon', 'id': 'Q1'}",
            "['Vienna', 'Wien']",
            "Rome is in",
            "['Italy']",
        ],
        ["The sign in Norland says", "Norland", "[closed]", '{"str": "open"}', "", ""],
    ]
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    first, second = read(buffer.getvalue()).facts
    assert (first.target, first.ground_truth, first.neighbourhood[0].answer) == ("Lisbon", "Vienna", "Italy")
    assert (second.target, second.ground_truth) == ("[closed]", "open")
