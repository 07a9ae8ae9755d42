"""Text that the model itself writes: plain sampling at temperature 1 from its full distribution, seeded.

It needs no file and no network, and it is the text on which the model's own behaviour is to be kept. Each text has a
seed of its own, so how many are written side by side decides how fast it goes, not what they say. The same on one
machine for one seed; other hardware may round a probability the other way and go on with another word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from memit_vc.errors import EngineError, StorageError
from memit_vc.numerics.forward.replay import cache_argument, evaluating
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.memory import free_memory
from memit_vc.objects.ids import JsonValue, canonical_json, digest, short
from memit_vc.progress import Progress, silent
from memit_vc.store.files import write_atomic

_PREFIXES = (
    "The",
    "In",
    "A",
    "It",
    "He",
    "She",
    "They",
    "This",
    "When",
    "After",
    "For",
    "One",
    "As",
    "There",
    "At",
    "On",
)
_LENGTH = 256
_VERSION = 2
_STAGE = "sample text"
_MOST_ROWS = {"cpu": 128, "cuda": 1024}
"""Texts written side by side: more of them gain nothing there."""
_FEWEST_ROWS = 16
"""Fewer take as long."""
_BARREN = 96
"""Texts without a word, one after the other, before the model is given up."""


def sampling_description(adapter: ModelAdapter, seed: int) -> dict[str, JsonValue]:
    """All that the text depends on, beside the model itself (whose base id stands in the statistics' key)."""
    return {
        "kind": "self",
        "name": "self",
        "field": None,
        "seed": seed,
        "version": _VERSION,
        "prefixes": list(_PREFIXES),
        "length": _new_tokens(adapter),
        "temperature": 1.0,
    }


def sampled_texts(
    adapter: ModelAdapter,
    *,
    seed: int,
    cache: Path | None = None,
    tokens: int | None = None,
    progress: Progress = silent,
) -> Iterator[str]:
    """Texts without end, written many at a time. What is finished is kept in `cache` (a directory) and read from there.

    `tokens` is how many the reader will take: no more texts are written at a time than that needs, and the progress
    counts up to it.

    No global random state is read or changed. EngineError if the model writes nothing but its end mark.
    """
    kept = _Kept(cache, adapter, seed)
    number = written = barren = 0

    def tell(more: int) -> None:
        progress(_STAGE, written + more if tokens is None else min(written + more, tokens), tokens or 0)

    while True:
        texts = kept.texts[number:]
        if not texts:
            rows = _rows(adapter, number, written, tokens)
            texts = _sample(adapter, seed=seed, numbers=range(number, number + rows), tell=tell)
            kept.append(texts)
        number += len(texts)
        if any(texts):
            written += sum(map(len, adapter.tokenizer([text for text in texts if text])["input_ids"]))
        tell(0)
        yield from filter(None, texts)
        barren = 0 if any(texts) else barren + len(texts)
        if barren >= _BARREN:
            raise EngineError("sampling from the model gives no text", hint="Name another corpus for the statistics.")


class _Kept:
    """One JSON line a text; a line cut short by a kill is dropped."""

    def __init__(self, directory: Path | None, adapter: ModelAdapter, seed: int) -> None:
        described = short(digest("sampling", canonical_json(sampling_description(adapter, seed))))
        self._path = None if directory is None else directory / f"self-{described}.jsonl"
        self.texts: list[str] = []
        try:
            lines = self._path.read_bytes().splitlines() if self._path is not None and self._path.exists() else []
            for line in lines:
                self.texts.append(str(json.loads(line)))
        except ValueError:  # sampled again from here on
            self._rewrite()
        except OSError:
            pass

    def append(self, texts: list[str]) -> None:
        self.texts.extend(texts)
        self._rewrite()

    def _rewrite(self) -> None:
        if self._path is not None:
            with suppress(StorageError):  # a cache: what cannot be kept is sampled again, the same
                write_atomic(self._path, "".join(json.dumps(text) + "\n" for text in self.texts).encode())


def _new_tokens(adapter: ModelAdapter) -> int:
    positions = getattr(adapter.model.config, "max_position_embeddings", None) or _LENGTH + 8
    return max(1, min(_LENGTH, int(positions) - 8))


def _rows(adapter: ModelAdapter, number: int, written: int, tokens: int | None) -> int:
    """How many texts to write next, when `number` texts had `written` tokens: as many as are wanted, and fit."""
    fit = _fitting_rows(adapter)
    if tokens is None:
        return fit
    usual = written / number if written else 0.85 * _new_tokens(adapter)  # few end early
    wanted = 1.1 * (tokens - written) / usual  # rather a few too many than another round for the last ones
    return max(_FEWEST_ROWS, min(fit, int(wanted) + 1))


def _fitting_rows(adapter: ModelAdapter) -> int:
    """Rows whose keys, values and probabilities take a quarter of what is free at most: the most of them, or that
    halved again and again, so that the same machine chooses the same number although its free memory varies.
    """
    rows = _MOST_ROWS.get(adapter.device.type, _MOST_ROWS["cpu"])
    free = free_memory(adapter.blocks[0])
    if free is None:
        return rows
    config = adapter.model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", None) or 1
    share = (getattr(config, "num_key_value_heads", None) or heads) / heads
    vectors = 2 * adapter.n_layers * adapter.hidden_size * share * adapter.dtype.itemsize
    vocabulary = int(adapter.model.get_output_embeddings().weight.shape[0])
    bytes_a_row = vectors * _new_tokens(adapter) + 24 * vocabulary
    while rows > _FEWEST_ROWS and rows * bytes_a_row > free // 4:
        rows //= 2
    return rows


def _sample(adapter: ModelAdapter, *, seed: int, numbers: range, tell: Callable[[int], None]) -> list[str]:
    """The texts of these numbers, "" for one without a word. A row that has ended leaves: the others go on alone."""
    ends = _end_tokens(adapter)
    length = _new_tokens(adapter)
    chances = torch.stack([_chances(seed, number, length) for number in numbers])
    written = _starts(adapter, numbers)
    first = written.shape[1]
    written = torch.cat([written, torch.full((len(numbers), length), -1)], dim=1)
    alive = torch.arange(len(numbers))
    cache = DynamicCache(config=adapter.model.config)
    named = {cache_argument(adapter.model): cache}
    step, total = written[:, :first], 0
    with evaluating(adapter.model), torch.no_grad():
        for place in range(first, first + length):
            tell(total)
            mask = torch.ones((len(alive), place), dtype=torch.long, device=adapter.device)
            output = adapter.model(input_ids=step.to(adapter.device), attention_mask=mask, use_cache=True, **named)
            chosen = _chosen(output.logits[:, -1], chances[alive, place - first])
            written[alive, place] = chosen
            total += len(alive)
            going = ~torch.isin(chosen, ends)
            if not bool(going.any()):
                break
            if not bool(going.all()):
                alive = alive[going]
                cache.reorder_cache(going.nonzero()[:, 0])
            step = written[alive, place : place + 1]
    return [_text(adapter.tokenizer, row[row >= 0], ends) for row in written]


def _chances(seed: int, number: int, length: int) -> Tensor:
    """Where in the distribution each token of a text is taken from: float64 [length], in [0, 1)."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    return torch.rand(length, generator=generator, dtype=torch.float64)


def _chosen(logits: Tensor, chances: Tensor) -> Tensor:
    """One token a row: the first at which the summed probabilities [rows, vocabulary] pass the row's chance."""
    summed = logits.float().softmax(-1).cpu().cumsum(-1, dtype=torch.float64)
    if not bool(summed[:, -1].isfinite().all()):
        raise EngineError("the model's probabilities are not finite", hint="Use a wider dtype than the model's.")
    return torch.searchsorted(summed, (chances * summed[:, -1])[:, None], right=True)[:, 0].clamp_(
        max=logits.shape[-1] - 1
    )


def _starts(adapter: ModelAdapter, numbers: range) -> Tensor:
    """First tokens [rows, n] of the texts: prefixes that are equally many tokens long, so without padding."""
    spelled = [list(adapter.tokenizer(prefix)["input_ids"]) for prefix in _PREFIXES]
    lengths = [len(ids) for ids in spelled]
    usual = max(sorted(set(lengths) - {0}), key=lengths.count)
    same = [ids for ids in spelled if len(ids) == usual]
    return torch.tensor([same[number % len(same)] for number in numbers])


def _end_tokens(adapter: ModelAdapter) -> Tensor:
    generation: Any = getattr(adapter.model, "generation_config", None)
    given = getattr(generation, "eos_token_id", None)
    ids = given if isinstance(given, list) else [given]
    return torch.tensor(
        sorted({int(i) for i in [*ids, adapter.tokenizer.eos_token_id] if i is not None}), dtype=torch.long
    )


def _text(tokenizer: Any, row: Tensor, ends: Tensor) -> str:
    stops = torch.isin(row[1:], ends).nonzero()  # the first token may be the end mark itself, used as BOS
    end = int(stops[0]) + 1 if len(stops) else len(row)
    return str(tokenizer.decode(row[:end], skip_special_tokens=True)).strip()
