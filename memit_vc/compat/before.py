"""Measurements from before an edit, kept in a file between runs: `pre_edit` and `pre_file`, in EasyEdit's layout."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memit_vc.compat.records import Request, listed
from memit_vc.errors import UsageError
from memit_vc.foreign.text import quoted
from memit_vc.store.files import storage_errors

_AGAIN = "Leave out pre_edit to measure again; a file of other requests, or of another model, does not fit."


def write_before(path: str | Path, before: Sequence[Mapping[str, Any]]) -> None:
    """As EasyEdit writes `pre_file`: a list of {"pre": …}."""
    wrapped = [{"pre": record} for record in before]
    text = json.dumps(wrapped, indent=4, ensure_ascii=False)
    with storage_errors(Path(path)):
        Path(path).write_text(text, encoding="utf-8")


def checked_path(path: Any) -> Path:
    """`pre_file`. UsageError for what names no file."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in str(path):
        raise UsageError(f"pre_file is {quoted(path)}, not a path", hint="Give the name of a file to write.")
    return Path(path)


def given_before(given: Any, requests: Sequence[Request]) -> list[dict[str, Any]]:
    """`pre_edit`: for each request {"pre": …} as EasyEdit has it, or what stands there alone.

    UsageError unless there is one for each request, with what the request's locality probes gave.
    """
    hint = "Give one dict for each request."
    records = listed(given, "pre_edit", hint)
    if len(records) != len(requests):
        raise UsageError(f"pre_edit has length {len(records)}, prompts {len(requests)}", hint=hint)
    both = zip(records, requests, strict=True)
    return [_checked(record, request, number) for number, (record, request) in enumerate(both, 1)]


def _checked(record: Any, request: Request, number: int) -> dict[str, Any]:
    found = record.get("pre", record) if isinstance(record, Mapping) else record
    where = f"entry {number} of pre_edit"
    if not isinstance(found, Mapping) or not {"rewrite_acc", "rewrite_ppl"} & set(found):
        raise UsageError(f"{where} has neither rewrite_acc nor rewrite_ppl", hint=_AGAIN)
    outputs = found.get("locality") or {}
    for name, probes in (request.get("locality") or {}).items():
        prompts = 1 if isinstance(probes["prompt"], str) else len(list(probes["prompt"]))
        output = outputs.get(f"{name}_output") if isinstance(outputs, Mapping) else None
        tokens = output if isinstance(output, list) else []
        if len(tokens) != prompts or not all(isinstance(each, list | tuple) for each in tokens):
            raise UsageError(f"{where} has no {name}_output for {prompts} prompts of locality {name!r}", hint=_AGAIN)
    return {**found, "locality": outputs}
