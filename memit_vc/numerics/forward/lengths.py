"""Texts that are longer than a model has positions: refused before anything is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memit_vc.errors import EngineError
from memit_vc.numerics.forward.tokens import Template, target_rows
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.objects import Fact

_ALIBI = ("bloom", "mpt")
_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def positions(config: Any) -> int | None:
    """Tokens that a text may have, as the model's config says; None if it says nothing, or where positions are a
    bias by distance (alibi), which has no end: Bloom's `seq_length` is the length that it was trained with.
    """
    if getattr(config, "model_type", None) in _ALIBI or getattr(config, "alibi", False):
        return None
    found = next((getattr(config, name, None) for name in _NAMES if getattr(config, name, None)), None)
    return int(found) if found else None


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
