"""Measurements from before an edit, kept in a file between runs: `pre_edit` and `pre_file`, in EasyEdit's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memit_vc.compat.records import Request
from memit_vc.errors import UsageError

_AGAIN = "Leave out pre_edit to measure again; a file of other requests, or of another model, does not fit."


def write_before(path: str | Path, before: Sequence[Mapping[str, Any]]) -> None:
    """As EasyEdit writes `pre_file`: a list of {"pre": …}."""
    wrapped = [{"pre": record} for record in before]
    Path(path).write_text(json.dumps(wrapped, indent=4, ensure_ascii=False), encoding="utf-8")


def given_before(given: Sequence[Any], requests: Sequence[Request]) -> list[dict[str, Any]]:
    """`pre_edit`: for each request {"pre": …} as EasyEdit has it, or what stands there alone.

    UsageError unless there is one for each request, with what the request's locality probes gave.
    """
    if len(given) != len(requests):
        raise UsageError(
            f"pre_edit has length {len(given)}, prompts {len(requests)}", hint="Give one dict for each request."
        )
    both = zip(given, requests, strict=True)
    return [_checked(record, request, number) for number, (record, request) in enumerate(both, 1)]


def _checked(record: Any, request: Request, number: int) -> dict[str, Any]:
    found = record.get("pre", record) if isinstance(record, Mapping) else record
    where = f"entry {number} of pre_edit"
    if not isinstance(found, Mapping) or not {"rewrite_acc", "rewrite_ppl"} & set(found):
        raise UsageError(f"{where} has neither rewrite_acc nor rewrite_ppl", hint=_AGAIN)
    outputs = found.get("locality") or {}
    for name, probes in (request.get("locality") or {}).items():
        prompts = 1 if isinstance(probes["prompt"], str) else len(probes["prompt"])
        output = outputs.get(f"{name}_output") if isinstance(outputs, Mapping) else None
        if not isinstance(output, list) or len(output) != prompts:
            raise UsageError(f"{where} has no {name}_output for {prompts} prompts of locality {name!r}", hint=_AGAIN)
    return {**found, "locality": outputs}
