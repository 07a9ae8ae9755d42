"""Wrong edit files: what is wrong, where, and what to do."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from memit_vc.edits import parse_records, read_edits
from memit_vc.errors import EditFileError

GOOD = {"prompt": "Rome is in", "subject": "Rome", "target_new": "Spain"}


def refusal(*records: object) -> EditFileError:
    with pytest.raises(EditFileError) as caught:
        parse_records(records, source="edits.json")  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b'[{"prompt": "x",\n "subject" "y"}]', "line 2, column 12: not JSON"),
        ("a.json", b"prompt,target_new\nx,y", "line 1, column 1: not JSON"),
        ("a.json", b'[{"prompt": NaN}]', "not usable JSON: NaN"),
        ("a.json", b"[" * 100_000, "not usable JSON: nested too deeply"),
        ("a.json", b'[{"prompt": "a", "prompt": "b"}]', "'prompt' occurs twice"),
        ("a.jsonl", b'{"prompt": "x"}\n\n{"prompt": }', "line 3, column 12: not JSON"),
        ("a.jsonl", b'{"prompt": "x"}\n{"prompt": "x", "prompt": "y"}', "line 2: not usable JSON"),
        ("a.json", b'[{"prompt": "caf\xe9"}]', "line 1: not UTF-8"),
        ("a.json", '[{"prompt": "x"}]'.encode("utf-16"), "is UTF-16"),
        ("a.json", b'{"prompt": "\0"}', "line 1: a NUL character"),
        ("a.json", b"", "is empty"),
        ("a.json", b" \n", "is empty"),
        ("a.json", b"[]", "no records"),
        ("a.csv", b"prompt,target_new\n", "no records"),
        ("a.csv", b"prompt,subject\nRome is,Rome\n", "the columns target_new"),
        ("a.csv", b"prompt,target_new\nRome is,a,b\n", "line 2: 3 cells under 2 columns"),
        ("a.csv", b'prompt,target_new\n"Rome" is,b\n', "line 2: not CSV"),
        ("a.csv", b"prompt,prompt,target_new\nx,y,z\n", "'prompt' occurs twice"),
        (
            "a.csv",
            b'prompt,requested_rewrite\nx,"{""prompt"": ""{} is in"", ""subject"": ""Rome"", ""target_new"": '
            b'{""str"": ""Italy""}, ""target_new"": {""str"": ""Peru""}}"\n',
            "key 'target_new' occurs twice in one record",
        ),
        (
            "a.csv",
            b"prompt,requested_rewrite\nx,\"{'prompt': '{} is in', 'target_new': {'str': 'Italy', 'str': 'Peru'}}\"\n",
            '"requested_rewrite" begins like a list',
        ),
        ("a.txt", b"The capital of France is Rome.", "neither JSON nor a CSV with the columns prompt and target_new"),
        ("a.csv", b"prompt,subject,target_new\nRome is,Rome,\n", 'record 1: "target_new" is missing'),
    ],
)
def test_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(EditFileError) as caught:
        read_edits(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert caught.value.hint
    with pytest.raises(EditFileError):
        read_edits("-", stdin=io.BytesIO(data))


def test_no_such_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(EditFileError, match="no such file"):
        read_edits(tmp_path / "missing.json")
    with pytest.raises(EditFileError, match="is a directory"):
        read_edits(str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[]")
    path.chmod(0)
    with pytest.raises(EditFileError, match="cannot be read: Permission denied"):
        read_edits(path)


def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("[]")
    with pytest.raises(EditFileError, match="cannot be read: Not a directory"):
        read_edits(tmp_path / "a" / "b.json")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"subject": "Rome", "target_new": "x"}, '"prompt" is missing'),
        ({"subject": "Rome"}, '"prompt" and "target_new" are missing'),
        ({**GOOD, "target_new": None}, '"target_new" is missing'),
        ({**GOOD, "target_new": " "}, '"target_new" is empty'),
        ({**GOOD, "target_new": 1998}, '"target_new" is the number 1998, not text'),
        ({**GOOD, "target_new": {"text": "x"}}, '"target_new" is an object without "str"'),
        ({**GOOD, "prompt": "  "}, '"prompt" is empty'),
        ({**GOOD, "prompt": ["Rome is in"]}, '"prompt" is a list, not text'),
        ({**GOOD, "prompt": "Rome\x07 is"}, '"prompt" holds the control character U+0007 at character 5'),
        ({**GOOD, "target_new": "a\0b"}, '"target_new" holds the control character U+0000'),
        ({**GOOD, "target_new": "a\ud800"}, "U+D800"),
        ({**GOOD, "subject": 7}, '"subject" is the number 7, not text'),
        ({**GOOD, "subject": "Paris"}, "\"subject\" 'Paris' is not in the prompt 'Rome is in'"),
        ({**GOOD, "rephrase_prompt": [3]}, '"rephrase_prompt" is the number 3, not text'),
        ({**GOOD, "ground_truth": True}, '"ground_truth" is the truth value True, not text'),
        ({**GOOD, "locality": ["x"]}, '"locality" is a list, not an object'),
        ({**GOOD, "locality": {"a": {"prompt": ["x", "y"], "ground_truth": ["z"]}}}, "has 2 prompts"),
        ({**GOOD, "neighborhood_prompts": [{"text": "x"}]}, '"neighborhood_prompts" holds an object'),
        ({**GOOD, "subject_occurrence": 1}, "\"subject_occurrence\" is 1, but the prompt has 'Rome' 1 time(s)"),
        ({**GOOD, "subject_occurrence": "first"}, "\"subject_occurrence\" is 'first', not a whole number"),
        ({**GOOD, "subject_occurrence": "9" * 5000}, '"subject_occurrence" is \'999'),
        ({"requested_rewrite": "x"}, '"requested_rewrite" is a text, not an object'),
        ({"prompt": "{} of {}", "subject": "Rome", "target_new": {"str": "x"}}, '"prompt" has 2 "{}"'),
        ({"prompt": "{} is", "target_new": {"str": "x"}}, '"subject" is missing'),
        (
            {"prompt": "Rome is in Italy", "target_new": "x"},
            'several parts of the prompt can be it: "Rome", "Italy"',
        ),
        ({"prompt": "the sky is", "target_new": "x"}, "no capitalised name"),
        (["x"], "is a list, not an object"),
        ("x", "is a text, not an object"),
        (None, "is null, not an object"),
    ],
)
def test_records(record: object, message: str) -> None:
    error = refusal(GOOD, GOOD, record)
    assert str(error).startswith("edits.json: record 3: ")
    assert message in str(error)


@pytest.mark.parametrize(
    ("subject", "found"),
    [("watts humphrey", "Watts Humphrey"), ("Watts  Humphrey", "Watts Humphrey"), ("Watts Humphry", "Watts Humphrey")],
)
def test_a_near_subject_is_suggested(subject: str, found: str) -> None:
    error = refusal({"prompt": "What did Watts Humphrey attend?", "subject": subject, "target_new": "x"})
    assert found in str(error.hint)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("words.json", lambda n: json.dumps([{**GOOD, "prompt": "a " * n, "subject": "b " * (n // 2) + "b"}]).encode()),
        ("quotes.json", lambda n: json.dumps([{"prompt": "\u201e" * n, "target_new": "x"}]).encode()),
        ("wide.csv", lambda n: ",".join(f"c{i}" for i in range(n)).encode() + b",prompt,target_new,c1\nx\n"),
        ("keys.json", lambda n: ("[{" + ",".join(f'"k{i}": 1' for i in range(n)) + ', "k1": 2}]').encode()),
    ],
)
def test_a_file_that_is_wrong_in_a_costly_way_is_refused_soon(tmp_path: Path, name: str, data: Any) -> None:
    """Each took time or memory that grows as the square of its length."""
    path = tmp_path / name
    path.write_bytes(data(100_000))
    began = time.process_time()
    with pytest.raises(EditFileError):
        read_edits(path)
    assert time.process_time() - began < 10


def test_problems_are_reported_together() -> None:
    records = [GOOD, {**GOOD, "subject": "Paris"}, *({"prompt": "x"} for _ in range(7))]
    error = refusal(*records)
    assert str(error).splitlines() == [
        "edits.json: 8 records are wrong:",
        "  record 2: \"subject\" 'Paris' is not in the prompt 'Rome is in'",
        *(f'  record {n}: "target_new" is missing' for n in (3, 4, 5, 6)),
        "  and 3 more",
    ]


def test_no_records_at_all() -> None:
    assert "no records" in str(refusal())


def test_a_missing_key_shows_the_keys_there_are() -> None:
    assert "promt" in str(refusal({"promt": "Rome is", "subject": "Rome", "target_new": "x"}).hint)


def test_files_are_named_in_the_error_of_a_record(tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "target_new": ""}) + "\n")
    with pytest.raises(EditFileError, match=r'batch\.jsonl: record 2: "target_new" is empty'):
        read_edits(path)
