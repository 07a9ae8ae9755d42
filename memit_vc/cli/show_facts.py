"""How facts and scores are written for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memit_vc.objects import Fact

__all__ = ["MEASURES", "fact_line", "number", "score_rows"]

MEASURES = {
    "ES": "ES (new target preferred)",
    "PS": "PS (in paraphrases)",
    "NS": "NS (neighbours kept)",
    "S": "S (harmonic mean)",
    "rewrite_acc": "argmax accuracy, prompts",
    "paraphrase_acc": "argmax accuracy, paraphrases",
    "neighbourhood_acc": "argmax accuracy, neighbours",
}


def number(value: float | None, digits: int = 2) -> str:
    """A measured value, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def fact_line(fact: Fact) -> str:
    """prompt → target, with what it replaces."""
    was = f" (was: {fact.ground_truth})" if fact.ground_truth else ""
    return f"{fact.prompt} → {fact.target}{was}"


def score_rows(sides: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of a table of totals, one column per side; measures that no side has are left out."""
    return [
        [text, *(number(side.get(name)) for side in sides)]
        for name, text in MEASURES.items()
        if any(side.get(name) is not None for side in sides)
    ]
