"""Running text as batches of token rows, of which little is padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from memit_vc.numerics.forward.rows import buckets

SHORTEST = 4
"""Texts of fewer tokens are skipped: headings and debris, most of whose keys are the first token's outlier."""
_WINDOW = 16
"""Batches' worth of rows that are sorted by length together."""
_TEXTS = 64
"""Texts tokenised in one call, at most. No text is taken that is not needed: a model may have to write it first."""


def token_batches(
    tokenizer: Any, texts: Iterable[str], *, tokens: int, max_length: int, batch_tokens: int
) -> Iterator[list[list[int]]]:
    """Rows of token ids, each text cut at `max_length`, in batches of similar length of about `batch_tokens`.

    `tokens` in all, the last row cut to fit; fewer where the texts end. The same for the same texts, always.
    """
    window: list[list[int]] = []
    held = 0
    for row in _rows(tokenizer, texts, tokens, max_length):
        window.append(row)
        held += len(row)
        if held >= _WINDOW * batch_tokens:
            yield from _packed(window, batch_tokens)
            window, held = [], 0
    yield from _packed(window, batch_tokens)


def _packed(window: list[list[int]], batch_tokens: int) -> Iterator[list[list[int]]]:
    for group in buckets([len(row) for row in window], max_tokens=batch_tokens):
        yield [window[i] for i in group]


def _rows(tokenizer: Any, texts: Iterable[str], tokens: int, max_length: int) -> Iterator[list[int]]:
    source, left = iter(texts), tokens
    while left and (part := list(islice(source, max(1, min(_TEXTS, left // max_length))))):
        # verbose=False: no warning for texts above the model's positions, which are cut right here
        encoded = tokenizer(
            part, return_attention_mask=False, return_special_tokens_mask=True, verbose=False, padding=False
        )
        for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
            end = len(ids)
            while end and special[end - 1]:  # an EOS behind the text is not text
                end -= 1
            if end >= SHORTEST and left:
                row = list(ids[: min(end, max_length, left)])
                left -= len(row)
                yield row
