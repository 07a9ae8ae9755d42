"""Texts that are longer than a model has positions: refused before anything is computed from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from memit_vc.errors import EngineError
from memit_vc.numerics.forward.tokens import Template, target_rows
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.objects import Fact

_ALIBI = ("bloom", "mpt")
_MARKS = 8
"""Tokens that a tokenizer puts around a text, at most."""
_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def positions(config: Any) -> int | None:
    """Tokens that a text may have, as the model's config says; None if it says nothing, or where positions are a
    bias by distance (alibi), which has no end: Bloom's `seq_length` is the length that it was trained with.
    """
    if getattr(config, "model_type", None) in _ALIBI or getattr(config, "alibi", False):
        return None
    found = next((getattr(config, name, None) for name in _NAMES if getattr(config, name, None)), None)
    return int(found) if found else None


def check_tokens(adapter: ModelAdapter, rows: Iterable[Sequence[int]]) -> None:
    """EngineError for a text (its tokens) that is longer than the model has positions: the last resort of a forward."""
    limit = positions(adapter.model.config)
    longest = max(map(len, rows), default=0)
    if limit is not None and longest > limit:
        raise EngineError(f"a text has {longest:,} tokens, the model has {limit:,} positions", hint="Shorten the text.")


def check_probes(adapter: ModelAdapter, facts: Sequence[Fact]) -> None:
    """EngineError for the first fact with a paraphrase, neighbour or old answer that is longer than that."""
    limit = positions(adapter.model.config)
    if limit is None:
        return
    for number, fact in enumerate(facts, 1):
        # a character has at most four bytes, and a token at least one
        asked = [(text, answer) for text, answer in asked_of(fact) if 4 * len(text + answer) + _MARKS > limit]
        for (text, _), row in zip(asked, target_rows(adapter.tokenizer, asked), strict=True):
            if len(row.ids) > limit:
                raise EngineError(
                    f"fact {number} ({fact.subject}): {text[:60]!r} has {len(row.ids):,} tokens with its answer, the "
                    f"model has {limit:,} positions",
                    hint="Shorten this text, or leave it out: it is one of those that the fact is scored with.",
                )


def asked_of(fact: Fact) -> list[tuple[str, str]]:
    """(text, answer) of all that a fact is scored with: prompt, paraphrases, generation prompts, neighbours."""
    pairs = []
    for prompt in (fact.prompt, *fact.paraphrases):
        pairs.append((prompt, fact.target))
        if fact.ground_truth is not None:
            pairs.append((prompt, fact.ground_truth))
    pairs += [(prompt, fact.target) for prompt in (*fact.clean_paraphrases, *fact.generation_prompts)]
    for probe in fact.neighbours:
        answer = probe.answer or fact.ground_truth
        if answer is not None:
            pairs += [(probe.prompt, fact.target), (probe.prompt, answer)]
    return pairs


def check_lengths(adapter: ModelAdapter, facts: Sequence[Fact], templates: Sequence[Template]) -> None:
    """EngineError for the first fact that, in some template and with its target, has more tokens than positions."""
    limit = positions(adapter.model.config)
    if limit is None:
        return
    for number, fact in enumerate(facts, 1):
        texts = [template.fill(text) for text in (fact.prompt, *fact.phrasings) for template in templates]
        rows = target_rows(adapter.tokenizer, [(text, fact.target) for text in texts])
        longest = max(len(row.ids) + 1 for row in rows)
        if longest > limit:
            raise EngineError(
                f"fact {number} ({fact.subject}): its prompt or a phrasing has {longest} tokens with target and "
                f"context, the model has {limit} positions",
                hint="Shorten it, or set phrase_book to 0 and chat to false: they ask it in other texts.",
            )
