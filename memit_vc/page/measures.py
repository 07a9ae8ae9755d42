"""The measures of an edit, as people read them. Their definitions are in `numerics/scores/scores.py`."""

from __future__ import annotations

MEASURES = {
    "ES": "ES (new target preferred)",
    "PS": "PS (in paraphrases)",
    "NS": "NS (neighbours kept)",
    "S": "S (harmonic mean)",
    "rewrite_acc": "argmax accuracy, prompts",
    "free_acc": "asked freely",
    "chat_acc": "asked in chat",
    "paraphrase_acc": "argmax accuracy, paraphrases",
    "clean_acc": "argmax accuracy, clean paraphrases",
    "generation_acc": "argmax accuracy, generation prompts",
    "neighbourhood_acc": "argmax accuracy, neighbours",
    "same_subject": "same subject, other questions kept",
    "hijacked": "same subject, hijacked by the target",
}


def number(value: float | None, digits: int = 2) -> str:
    """A measured value, or a dash if there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
