"""The field's scores of an edit, per fact and in total. Always measured on materialised weights.

Definitions of the CounterFact benchmark (Meng et al. 2022, 2023): with NLL the mean over the tokens of a target,
ES = 1[NLL_new < NLL_true] on the prompt, PS the same averaged over paraphrases, NS = 1[NLL_true < NLL_new] averaged
over neighbourhood prompts, S the harmonic mean of the three means.

`*_acc`: all tokens of the wanted text are the argmax: of the new target on the prompt (`rewrite_acc`), on paraphrases
as the record gives them (`paraphrase_acc`), on paraphrases without a sentence in front (`clean_acc`) and on generation
prompts, which need not ask for it (`generation_acc`); of the true answer in the neighbourhood. `free_acc`: the greedy
answer of at most `FREE` tokens begins with the target. `chat_acc`: the greedy reply of at most `CHAT_REPLY` tokens to a
user's turn in the model's chat format names the target, for a chat model answers in a whole sentence.

`same_subject`: the share of other questions about the subject (`questions.SCORED`) whose first token stays the base's;
`hijacked`: the share that the new target's first token takes over. Two kinds of questions are left out: those that the
base itself answers with that token, and those that ask what the fact says ("{} was born in" for a place of birth).

`name_acc`: where a text names the subject again (`questions.NAMED`), all tokens of the name but the first are the
argmax, given those before. A name of one token has no such score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from memit_vc.numerics.forward.chat import SCORED as CHAT
from memit_vc.numerics.forward.chat import chat_template
from memit_vc.numerics.forward.lengths import asked_of, positions
from memit_vc.numerics.forward.phrasebook import PhraseBook
from memit_vc.numerics.forward.questions import NAMED, SCORED
from memit_vc.numerics.forward.tokens import Template, TokenRow, encode, target_rows
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.scores.generation import generate
from memit_vc.numerics.scores.likelihood import Continued, continuations, first_tokens, greedy
from memit_vc.objects import Fact, FactId, as_seen
from memit_vc.objects.measures import OF_FACT
from memit_vc.objects.seen import occurrences, stands_alone

FREE = 10
"""Tokens of an answer that is asked freely."""

CHAT_REPLY = 32
"""Tokens of a reply in chat."""

FactScores: TypeAlias = "dict[str, float | None]"
"""One fact: each of MEASURES in [0, 1], None if the fact has no such probe; `nll` of the new target on the
prompt.
"""

Answers: TypeAlias = "Mapping[FactId, Sequence[int]]"
"""The first token of the base's answer to each of `questions.SCORED`."""


def subject_answers(adapter: ModelAdapter, facts: Sequence[Fact]) -> dict[FactId, tuple[int, ...]]:
    """The first token of the answer to each other question about a fact's subject, with the weights as they stand."""
    questions = [Template.parse(text) for text in SCORED]
    texts = [question.fill(fact.subject) for fact in facts for question in questions]
    found, width = first_tokens(adapter, texts), len(questions)
    return {fact.id: tuple(found[i * width : (i + 1) * width]) for i, fact in enumerate(facts)}


def score(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    *,
    base: Answers | None = None,
    chat: bool = False,
    max_tokens: int = 2048,
    on_done: Callable[[int, int], None] | None = None,
    on_reply: Callable[[int, int], None] | None = None,
) -> list[FactScores]:
    """Scores of each fact with the weights that the model now holds.

    `base` are the base's `subject_answers`; without them `same_subject` and `hijacked` are None. `chat_acc` is None
    without `chat`: a whole reply of each fact takes a second or so.
    """
    turn = chat_template(adapter.tokenizer, CHAT) if chat else None
    named = [_named(adapter, fact) for fact in facts]
    pairs = (pair for fact, rows in zip(facts, named, strict=True) for pair in (*asked_of(fact), *rows))
    asked = list(dict.fromkeys(pairs))
    found = continuations(adapter, asked, max_tokens=max_tokens, on_done=on_done)
    answers = dict(zip(asked, found, strict=True))
    now = subject_answers(adapter, facts) if base is not None else {}
    book = PhraseBook.shipped()
    scores = []
    for number, fact in enumerate(facts):
        of_fact = _of_fact(fact, answers)
        of_fact["free_acc"] = _begins(adapter, fact.prompt, fact.target, answers)
        of_fact["name_acc"] = _names(named[number], answers)
        of_fact["chat_acc"] = None
        if turn is not None:
            if on_reply is not None:
                on_reply(number, len(facts))
            of_fact["chat_acc"] = _replies(adapter, turn.fill(fact.prompt), fact.target)
        sides = None if base is None else (base[fact.id], now[fact.id])
        of_fact["same_subject"], of_fact["hijacked"] = _spared(adapter, fact, sides, book)
        scores.append({name: of_fact[name] for name in OF_FACT})
    return scores


def total(scores: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Mean of each measure over the facts that have it, and S; None if no fact has it."""
    means: dict[str, float | None] = {name: _mean([s.get(name) for s in scores]) for name in OF_FACT}
    parts = [means[name] for name in ("ES", "PS", "NS")]
    known = [p for p in parts if p is not None]
    if len(known) < len(parts):
        means["S"] = None
    else:
        means["S"] = 0.0 if min(known) == 0 else len(known) / sum(1 / p for p in known)
    return means


def standard_errors(scores: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The standard error of each mean of `total` over facts; None where fewer than two facts have the measure."""
    errors: dict[str, float | None] = {}
    for name in OF_FACT:
        known = [value for s in scores if (value := s.get(name)) is not None]
        if len(known) < 2:
            errors[name] = None
            continue
        mean = sum(known) / len(known)
        errors[name] = math.sqrt(sum((v - mean) ** 2 for v in known) / (len(known) - 1) / len(known))
    return errors


def _named(adapter: ModelAdapter, fact: Fact) -> dict[tuple[str, str], TokenRow]:
    """The texts that name the subject again, those that the model has positions for."""
    pairs = [(Template.parse(text).fill(fact.subject), fact.subject) for text in NAMED]
    limit = positions(adapter.model.config)
    rows = zip(pairs, target_rows(adapter.tokenizer, pairs), strict=True)
    return {pair: row for pair, row in rows if limit is None or len(row.ids) <= limit}


def _of_fact(fact: Fact, found: Mapping[tuple[str, str], Continued]) -> FactScores:
    def succeeds(prompt: str) -> float | None:
        if fact.ground_truth is None or as_seen(fact.ground_truth) == as_seen(fact.target):
            return None
        return float(found[prompt, fact.target].nll < found[prompt, fact.ground_truth].nll)

    def learnt(prompts: Sequence[str]) -> float | None:
        return _mean([float(found[p, fact.target].argmax) for p in prompts])

    spared, kept = [], []
    for probe in fact.neighbours:
        answer = probe.answer or fact.ground_truth
        if answer is not None and as_seen(answer) != as_seen(fact.target):
            spared.append(float(found[probe.prompt, answer].nll < found[probe.prompt, fact.target].nll))
            kept.append(float(found[probe.prompt, answer].argmax))
    return {
        "ES": succeeds(fact.prompt),
        "PS": _mean([succeeds(p) for p in fact.paraphrases]),
        "NS": _mean(spared),
        "rewrite_acc": learnt([fact.prompt]),
        "paraphrase_acc": learnt(fact.paraphrases),
        "clean_acc": learnt(fact.clean_paraphrases),
        "generation_acc": learnt(fact.generation_prompts),
        "neighbourhood_acc": _mean(kept),
        "nll": found[fact.prompt, fact.target].nll,
    }


def _begins(adapter: ModelAdapter, prompt: str, target: str, found: Mapping[tuple[str, str], Continued]) -> float:
    """1 if the greedy answer begins with the target. It is generated only where its first token leaves that open."""
    continued = found[prompt, target]
    if continued.argmax:
        return 1.0
    wanted = target.strip()
    first = str(adapter.tokenizer.decode([continued.predicted[0]])).strip()
    if first and not wanted.startswith(first) and not first.startswith(wanted):
        return 0.0
    answer = greedy(adapter, [prompt], new_tokens=FREE)[0].text
    return float(answer.startswith(wanted) and stands_alone(wanted, answer, 0))


def _names(rows: Mapping[tuple[str, str], TokenRow], found: Mapping[tuple[str, str], Continued]) -> float | None:
    return _mean([float(found[pair].predicted[1:] == row.labels[1:]) for pair, row in rows.items() if row.labels[1:]])


def _replies(adapter: ModelAdapter, turn: str, target: str) -> float:
    """1 if the greedy reply to a turn names the target: its words, as words, whatever their case."""
    [asked] = encode(adapter.tokenizer, [turn])
    reply = generate(adapter, asked.ids, new_tokens=CHAT_REPLY).text
    wanted, said = target.strip().casefold(), reply.casefold()
    return float(any(stands_alone(wanted, said, start) for start in occurrences(wanted, said)))


def _spared(
    adapter: ModelAdapter, fact: Fact, sides: tuple[Sequence[int], Sequence[int]] | None, book: PhraseBook
) -> tuple[float | None, float | None]:
    """(same_subject, hijacked) from the first tokens of the base's and of the present answers."""
    if sides is None:
        return None, None
    questions = [Template.parse(text).fill(fact.subject) for text in SCORED]
    rows = target_rows(adapter.tokenizer, [(question, fact.target) for question in questions])
    news = [row.labels[0] for row in rows]
    open_ones = [
        (old, now, new)
        for question, old, now, new in zip(questions, *sides, news, strict=True)
        if old != new and not book.says(fact, question)
    ]
    same = _mean([float(old == now) for old, now, _ in open_ones])
    return same, _mean([float(now == new) for _, now, new in open_ones])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
