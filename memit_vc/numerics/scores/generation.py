"""Greedy generation as plain transformers does it, a prompt at a time: padding would change the last bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memit_vc.errors import EngineError
from memit_vc.numerics.forward.lengths import positions
from memit_vc.numerics.forward.replay import evaluating
from memit_vc.numerics.model.adapter import ModelAdapter

_BEFORE = 16
"""Tokens before a token that are enough to know how it is written: whether with a space in front."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A token that could stand at a place, as it is written there, and its probability."""

    text: str
    p: float


@dataclass(frozen=True, slots=True)
class Generated:
    """The new tokens, an end mark included; `text` is without special tokens. `best` has the likeliest tokens of each
    place, if they were asked for: the first of them is the one that was taken.
    """

    ids: tuple[int, ...]
    text: str
    best: tuple[tuple[Choice, ...], ...] = ()


def generate(adapter: ModelAdapter, ids: Sequence[int], *, new_tokens: int, best: int = 0) -> Generated:
    """What the model most likely writes behind a prompt's tokens: at most `new_tokens`, up to its end mark or its last
    position. EngineError if the prompt has no token, or leaves no position for an answer.
    """
    tokenizer, limit = adapter.tokenizer, positions(adapter.model.config)
    if not ids:
        raise EngineError("the prompt has no token", hint="Give at least one word.")
    room = new_tokens if limit is None else min(new_tokens, limit - len(ids))
    if room < 1:
        raise EngineError(
            f"the prompt has {len(ids):,} tokens, the model {limit:,} positions: none is left for an answer",
            hint="Shorten the prompt.",
        )
    row = torch.tensor([list(ids)], device=adapter.device)
    eos = tokenizer.eos_token_id
    with evaluating(adapter.model), torch.no_grad():
        made = adapter.model.generate(
            row,
            attention_mask=torch.ones_like(row),
            do_sample=False,
            repetition_penalty=1.0,  # a checkpoint's own settings may have penalties
            no_repeat_ngram_size=0,
            max_new_tokens=room,
            pad_token_id=0 if eos is None else eos,
            return_dict_in_generate=True,
            output_scores=best > 0,
        )
    written = tuple(made.sequences[0, len(ids) :].tolist())
    text = str(tokenizer.decode(written, skip_special_tokens=True))
    if not best:
        return Generated(written, text)
    places = []
    for place, scores in enumerate(made.scores):
        top = torch.softmax(scores[0].float(), -1).topk(min(best, scores.shape[-1]))
        before = (*ids, *written[:place])[-_BEFORE:]
        chosen = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        places.append(tuple(Choice(_behind(tokenizer, before, token), p) for token, p in chosen))
    return Generated(written, text, tuple(places))


def _behind(tokenizer: Any, before: Sequence[int], token: int) -> str:
    """How a token is written behind others; a part of a character is written as the tokenizer can."""
    start, whole = str(tokenizer.decode(before)), str(tokenizer.decode([*before, token]))
    return whole[len(start) :] if whole.startswith(start) else str(tokenizer.decode([token]))
