"""EasyEdit's request dicts: made from the arguments of `edit`, checked, and turned into facts."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from memit_vc.edits import parse_records
from memit_vc.errors import UsageError
from memit_vc.objects import Fact

_LOG = logging.getLogger(__name__)

Request: TypeAlias = "dict[str, Any]"
"""prompt, target_new, ground_truth, locality and portability {name: {prompt, ground_truth}}, and maybe subject, …"""

_DICTS = "Give EasyEdit's request dicts."
_PAIR = "{'prompt': […], 'ground_truth': […]}"
_NEEDED = ("prompt", "subject", "target_new", "ground_truth", "subject_occurrence", "relation_id")


def listed_requests(requests: Any) -> list[Request]:
    """A copy of each request, of an iterator's too; a dict alone is one request. UsageError for what is no dict."""
    given = [requests] if isinstance(requests, Mapping) else listed(requests, "requests", _DICTS)
    return [_copied(request, number) for number, request in enumerate(given, 1)]


def _copied(request: Any, number: int) -> Request:
    try:
        return dict(request)  # the row of a table becomes a dict, too
    except (TypeError, ValueError):
        raise UsageError(f"request {number} is a {type(request).__name__}, not a dict", hint=_DICTS) from None


def facts_of(requests: Sequence[Mapping[str, Any]]) -> list[Fact]:
    """One fact per request, in order; a subject that is not given is found in the prompt, and said in the log.

    Takes EasyEdit's dicts and memit's (prompt with "{}", target_new as {"str": …}). EditFileError names the request.
    """
    records = []
    for request in requests:
        record = {key: request[key] for key in _NEEDED if request.get(key) is not None}
        if isinstance(record.get("subject"), str) and not record["subject"].strip():
            del record["subject"]
        records.append(record)
    # the reference keeps one column per request, a repeated one too
    batch = parse_records(records, source="requests", deduplicate=False)
    for note in batch.notes:
        _LOG.info("%s", note)
    return list(batch.facts)


def prepare_requests(
    prompts: str | Sequence[str],
    target_new: str | Sequence[str],
    *,
    ground_truth: str | Sequence[str | None] | None = None,
    target_neg: str | Sequence[str | None] | None = None,
    rephrase_prompts: Sequence[Any] | str | None = None,
    locality_inputs: Mapping[str, Mapping[str, Any]] | None = None,
    portability_inputs: Mapping[str, Mapping[str, Any]] | None = None,
    subject: str | Sequence[str | None] | None = None,
    loc_prompts: str | Sequence[str | None] | None = None,
) -> list[Request]:
    """Request dicts from parallel lists (or single strings). UsageError if two lengths differ. Only `loc_prompts` may
    be shorter: they are taken again from the first.
    """
    asked = listed(prompts, "prompts")
    n = len(asked)
    if not n:
        raise UsageError("prompts is empty", hint="Give at least one prompt.")
    targets, truths = _column(target_new, "target_new", n), _column(ground_truth, "ground_truth", n)
    requests: list[Request] = [
        {"prompt": prompt, "target_new": target, "ground_truth": truth, "portability": {}, "locality": {}}
        for prompt, target, truth in zip(asked, targets, truths, strict=True)
    ]
    fillers = None if loc_prompts is None else listed(loc_prompts, "loc_prompts")
    if fillers and len(fillers) < n:
        fillers = (fillers * math.ceil(n / len(fillers)))[:n]
    columns = {
        "target_neg": _column(target_neg, "target_neg", n),
        "subject": _column(subject, "subject", n),
        "loc_prompt": _column(fillers, "loc_prompts", n),
        "rephrase_prompt": _column(rephrase_prompts, "rephrase_prompts", n),
    }
    for key, values in columns.items():
        for request, value in zip(requests, values, strict=True):
            if value is not None:
                request[key] = value
    for kind, inputs in (("locality", locality_inputs), ("portability", portability_inputs)):
        for name, probes in _probes(inputs, f"{kind}_inputs").items():
            _attach(requests, kind, name, probes)
    return requests


def with_checked_probes(request: Request, number: int) -> Request:
    """The request with lists in place of iterators, which could be asked only once.

    UsageError unless locality and portability are dicts of {"prompt": …, "ground_truth": …} by name.
    """
    found: Request = {
        kind: {
            name: {**probes, "prompt": _kept(probes["prompt"]), "ground_truth": _kept(probes["ground_truth"])}
            for name, probes in _probes(request[kind], f"request {number}: {kind}").items()
        }
        for kind in ("locality", "portability")
        if kind in request
    }
    if "rephrase_prompt" in request:
        found["rephrase_prompt"] = _kept(request["rephrase_prompt"])
    return {**request, **found}


def _probes(given: Any, where: str) -> Mapping[Any, Mapping[str, Any]]:
    """The probes by their names. None, an empty list and the like are no probes, as EasyEdit has it."""
    if given is None or (isinstance(given, list | tuple | str | int) and not given):
        return {}
    if not isinstance(given, Mapping):
        raise UsageError(f"{where} is a {type(given).__name__}, not a dict", hint=f"Give {{name: {_PAIR}}}.")
    for name, probes in given.items():
        if not isinstance(probes, Mapping) or not {"prompt", "ground_truth"} <= set(probes):
            raise UsageError(f"{where}[{name!r}] lacks prompt or ground_truth", hint=f"Give {_PAIR}.")
    return given


def _kept(value: Any) -> Any:
    return list(value) if isinstance(value, Iterator) else value


def _attach(requests: list[Request], kind: str, name: str, probes: Mapping[str, Any]) -> None:
    where = f"{kind}_inputs[{name!r}]"
    prompts, answers = (_column(probes[key], f"{where}[{key!r}]", len(requests)) for key in ("prompt", "ground_truth"))
    for number, (request, prompt, answer) in enumerate(zip(requests, prompts, answers, strict=True), 1):
        if prompt is None:
            continue
        prompt, answer = _kept(prompt), _kept(answer)
        one = listed(prompt, f"{where}['prompt'], entry {number},")
        other = listed(answer, f"{where}['ground_truth'], entry {number},")
        if isinstance(prompt, str) != isinstance(answer, str) or len(one) != len(other):
            raise UsageError(
                f"{where}: prompt and ground_truth of entry {number} do not fit together",
                hint="Give a string for each, or two lists of one length.",
            )
        request[kind][name] = {"prompt": prompt, "ground_truth": answer}


def _column(value: Any, name: str, n: int) -> list[Any]:
    if value is None:
        return [None] * n
    entries = listed(value, name)
    if len(entries) != n:
        raise UsageError(
            f"{name} has length {len(entries)}, prompts {n}",
            hint=f"Give one {name} for each prompt (None if there is none).",
        )
    return entries


def listed(value: Any, name: str, hint: str = "Give a string or a list of strings.") -> list[Any]:
    """The entries of a list or of anything else that gives some; a string is the only one. UsageError for a dict, and
    for what has no entries.
    """
    if isinstance(value, str):
        return [value]
    try:
        entries = None if isinstance(value, Mapping) else iter(value)
    except TypeError:  # a tensor of no dimensions has `__iter__`, too
        entries = None
    if entries is None:
        raise UsageError(f"{name} is a {type(value).__name__}", hint=hint)
    return list(entries)
