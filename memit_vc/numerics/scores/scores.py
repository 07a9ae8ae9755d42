"""The field's scores of an edit: ES, PS, NS, S and argmax accuracy, per fact and in total.

Definitions of the CounterFact benchmark (Meng et al. 2022, 2023): with NLL the mean over the tokens of a target,
ES = 1[NLL_new < NLL_true] on the prompt, PS the same averaged over paraphrases, NS = 1[NLL_true < NLL_new] averaged
over neighbourhood prompts, S the harmonic mean of the three means. `*_acc`: all tokens of the wanted text are the
argmax (the new target on prompt and paraphrases, the true answer in the neighbourhood). Always measured on
materialised weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.scores.likelihood import Continued, continuations
from memit_vc.objects import Fact

MEASURES = ("ES", "PS", "NS", "rewrite_acc", "paraphrase_acc", "neighbourhood_acc")

FactScores: TypeAlias = "dict[str, float | None]"
"""One fact: each of MEASURES in [0, 1], None if the fact has no such probe; `nll` of the new target on the
prompt.
"""


def score(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    *,
    max_tokens: int = 2048,
    on_done: Callable[[int, int], None] | None = None,
) -> list[FactScores]:
    """Scores of each fact with the weights that the model now holds."""
    asked = list(dict.fromkeys(pair for fact in facts for pair in _pairs(fact)))
    found = continuations(adapter, asked, max_tokens=max_tokens, on_done=on_done)
    answers = dict(zip(asked, found, strict=True))
    return [_of_fact(fact, answers) for fact in facts]


def total(scores: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Mean of each measure over the facts that have it, and S; None if no fact has it."""
    means: dict[str, float | None] = {name: _mean([s.get(name) for s in scores]) for name in (*MEASURES, "nll")}
    parts = [means[name] for name in ("ES", "PS", "NS")]
    known = [p for p in parts if p is not None]
    if len(known) < len(parts):
        means["S"] = None
    else:
        means["S"] = 0.0 if min(known) == 0 else len(known) / sum(1 / p for p in known)
    return means


def _pairs(fact: Fact) -> list[tuple[str, str]]:
    pairs = []
    for prompt in (fact.prompt, *fact.paraphrases):
        pairs.append((prompt, fact.target))
        if fact.ground_truth is not None:
            pairs.append((prompt, fact.ground_truth))
    for probe in fact.neighbourhood:
        answer = probe.answer or fact.ground_truth
        if answer is not None:
            pairs += [(probe.prompt, fact.target), (probe.prompt, answer)]
    return pairs


def _of_fact(fact: Fact, found: Mapping[tuple[str, str], Continued]) -> FactScores:
    def succeeds(prompt: str) -> float | None:
        if fact.ground_truth is None:
            return None
        return float(found[prompt, fact.target].nll < found[prompt, fact.ground_truth].nll)

    spared, kept = [], []
    for probe in fact.neighbourhood:
        answer = probe.answer or fact.ground_truth
        if answer is not None:
            spared.append(float(found[probe.prompt, answer].nll < found[probe.prompt, fact.target].nll))
            kept.append(float(found[probe.prompt, answer].argmax))
    return {
        "ES": succeeds(fact.prompt),
        "PS": _mean([succeeds(p) for p in fact.paraphrases]),
        "NS": _mean(spared),
        "rewrite_acc": float(found[fact.prompt, fact.target].argmax),
        "paraphrase_acc": _mean([float(found[p, fact.target].argmax) for p in fact.paraphrases]),
        "neighbourhood_acc": _mean(kept),
        "nll": found[fact.prompt, fact.target].nll,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
