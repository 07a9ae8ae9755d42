"""`summary_metrics`: the means over an edit's metrics, under EasyEdit's name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memit_vc.compat.records import listed
from memit_vc.errors import UsageError

_SINGLE = ("rewrite_acc", "rephrase_acc", "rewrite_ppl", "rephrase_ppl")
_SECTIONS = ("locality", "portability")
_HINT = "Give the metrics that an edit returned."


def summary_metrics(all_metrics: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Print and return the mean over the requests of each accuracy and perplexity: {"pre": {…}, "post": {…}}.

    Unlike EasyEdit's it writes no `./logs`.
    """
    metrics = [all_metrics] if isinstance(all_metrics, Mapping) else listed(all_metrics, "all_metrics", _HINT)
    try:
        summary = {phase: _summary([r[phase] for r in metrics if phase in r]) for phase in ("pre", "post")}
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"all_metrics holds what no edit returned: {error}", hint=_HINT) from error
    print("Metrics Summary: ", summary)  # noqa: T201 (what scripts call it for)
    return summary


def _summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means: dict[str, Any] = dict(_means(found, _SINGLE))
    for section in _SECTIONS:
        parts = [record.get(section) or {} for record in found]
        keys = sorted({key for part in parts for key in part if key.endswith("_acc")})
        if keys:
            means[section] = dict(_means(parts, keys))
    return means


def _means(records: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Iterator[tuple[str, float]]:
    """The mean of each key over the records that have it; of a list of values, its own mean counts."""
    for key in keys:
        values = [record[key] for record in records if key in record]
        flat = [sum(value) / len(value) if isinstance(value, list) else float(value) for value in values if value != []]
        if flat:
            yield key, sum(flat) / len(flat)
