"""`diff --behaviour`: what the model says at two revisions, side by side, on the probes of the facts that differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from memit_vc.numerics.scores.likelihood import continuations, greedy
from memit_vc.objects import CommitId, Fact, JsonValue
from memit_vc.porcelain.editing.models import LoadedModel, model_of
from memit_vc.porcelain.history.diff import FactsDiff, diff
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository

Kind: TypeAlias = Literal["prompt", "paraphrase", "neighbour", "given"]
Sides: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Asked:
    """One prompt at both revisions, (older, newer) each.

    `answers` are the greedy continuations. `p_new` and `p_old` are the probabilities of `new`, the fact's target, and
    of `old`, which it replaces. For neighbours, `old` is the answer that should stay.
    """

    kind: Kind
    prompt: str
    fact: Fact | None
    answers: tuple[str, str]
    new: str | None = None
    p_new: Sides | None = None
    old: str | None = None
    p_old: Sides | None = None

    def to_json(self) -> JsonValue:
        return {**vars(self), "fact": None if self.fact is None else self.fact.id}


@dataclass(frozen=True)
class Behaviour:
    """The answers to the probes of the facts that differ, then to the user's own prompts."""

    older: CommitId
    newer: CommitId
    asked: tuple[Asked, ...]

    def to_json(self) -> JsonValue:
        return [entry.to_json() for entry in self.asked]


@dataclass(frozen=True)
class _Question:
    kind: Kind
    prompt: str
    fact: Fact | None = None
    new: str | None = None
    old: str | None = None


def behaviour(
    repository: Repository,
    older: CommitId,
    newer: CommitId,
    *,
    prompts: Sequence[str] = (),
    new_tokens: int = 6,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Behaviour:
    """Ask the model at both commits. It is loaded once, the states are swapped in memory."""
    questions = [*_probes(diff(repository, older, newer)), *(_Question("given", prompt) for prompt in prompts)]
    if not questions:
        return Behaviour(older, newer, ())
    loaded = model_of(repository, loaded, progress=progress)
    texts = list(dict.fromkeys(question.prompt for question in questions))
    pairs = [(q.prompt, text) for q in questions for text in (q.new, q.old) if text is not None]
    wanted = list(dict.fromkeys(pairs))
    said: list[dict[str, str]] = []
    likely: list[dict[tuple[str, str], float]] = []
    for done, commit in enumerate((older, newer)):
        progress("ask the model", done, 2)
        with loaded.holding(LiveState.at(repository, commit)) as adapter:
            written = greedy(adapter, texts, new_tokens=new_tokens)
            said.append({text: each.text for text, each in zip(texts, written, strict=True)})
            found = continuations(adapter, wanted) if wanted else []
        probabilities = (math.exp(-each.nll * len(each.predicted)) for each in found)
        likely.append(dict(zip(wanted, probabilities, strict=True)))
    progress("ask the model", 2, 2)

    def both(prompt: str, text: str | None) -> Sides | None:
        return None if text is None else (likely[0][prompt, text], likely[1][prompt, text])

    asked = [
        Asked(
            **vars(q),
            answers=(said[0][q.prompt], said[1][q.prompt]),
            p_new=both(q.prompt, q.new),
            p_old=both(q.prompt, q.old),
        )
        for q in questions
    ]
    return Behaviour(older, newer, tuple(asked))


def _probes(found: FactsDiff) -> Iterator[_Question]:
    entries = [(entry.fact, entry.fact.ground_truth) for entry in (*found.added, *found.removed)]
    entries += [(pair.after.fact, pair.before.fact.target) for pair in found.changed]
    entries += [(pair.after.fact, pair.after.fact.ground_truth) for pair in found.recomputed]
    for fact, old in entries:
        yield _Question("prompt", fact.prompt, fact, fact.target, old)
        for prompt in fact.paraphrases:
            yield _Question("paraphrase", prompt, fact, fact.target, old)
        for probe in fact.neighbours:
            yield _Question("neighbour", probe.prompt, fact, fact.target, probe.answer or fact.ground_truth)
