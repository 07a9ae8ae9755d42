"""Facts as an edit file that `read_edits` gives back unchanged."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Literal

from memit_vc.edits.records import as_a_word
from memit_vc.objects import Fact, JsonValue
from memit_vc.objects.seen import occurrences

COLUMNS = (
    "prompt",
    "subject",
    "target_new",
    "ground_truth",
    "paraphrase_prompts",
    "clean_paraphrase_prompts",
    "generation_prompts",
    "phrasings",
    "neighborhood_prompts",
    "subject_occurrence",
)
"""Columns of the CSV form; lists are JSON inside their cell."""


def write_records(facts: Iterable[Fact], *, format: Literal["json", "jsonl", "csv"]) -> str:  # noqa: A002
    """The text of an edit file with `Fact.to_json` records, in the facts' order; ends with a newline."""
    records = [_record(fact) for fact in facts]
    if format == "json":
        return json.dumps(records, ensure_ascii=False, indent=1) + "\n"
    if format == "jsonl":
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for record in records:
        writer.writerow({k: json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for k, v in record.items()})
    return buffer.getvalue()


def _record(fact: Fact) -> dict[str, JsonValue]:
    """With the occurrence of the subject where a reader would take another one: "Java" stands in "JavaScript", too."""
    record = fact.to_json()
    if fact.occurrence is None and as_a_word(fact.prompt, fact.subject, []) is not None:
        record["subject_occurrence"] = len(occurrences(fact.subject, fact.prompt)) - 1
    return record
