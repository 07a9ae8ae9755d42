"""Facts as an edit file that `read_edits` gives back unchanged."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Literal

from memit_vc.objects import Fact

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
    records = [fact.to_json() for fact in facts]
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
