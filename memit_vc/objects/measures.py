"""What is measured of an edit, by name and as people read it. The definitions are in `numerics/scores/scores.py`.

The list stands here because what shows scores loads no torch, and what measures them does.
"""

from __future__ import annotations

LABELS = {
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
    "name_acc": "argmax accuracy, the subject's name",
}
"""In the order of the tables; those of totals over facts."""
MEASURES = tuple(name for name in LABELS if name != "S")
"""Of one fact, each in [0, 1]. S is of totals alone."""
OF_FACT = (*MEASURES, "nll")
"""All that is kept of one fact; `nll` is the loss of the new target on the prompt."""


def number(value: float | None, digits: int = 2) -> str:
    """A measured value, or a dash if there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
