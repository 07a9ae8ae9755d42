"""Text that the model itself writes: plain sampling at temperature 1 from its full distribution, seeded.

It needs no file and no network, and it is the text on which the model's own behaviour is to be kept. The same on one
machine for one seed; other hardware may round a probability the other way and go on with another word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from memit_vc.errors import EngineError, StorageError
from memit_vc.numerics.forward.replay import cache_argument, evaluating
from memit_vc.numerics.model.adapter import ModelAdapter
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
_ROWS = 32
_LENGTH = 256
_VERSION = 1


def sampling_description(adapter: ModelAdapter, seed: int) -> dict[str, JsonValue]:
    """All that the text depends on, beside the model itself (whose base id stands in the statistics' key)."""
    return {
        "kind": "self",
        "name": "self",
        "field": None,
        "seed": seed,
        "version": _VERSION,
        "prefixes": list(_PREFIXES),
        "rows": _ROWS,
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
    """Texts without end, in batches of 32. Finished batches are kept in `cache` (a directory) and read from there.

    `tokens` is how many the reader will take. It serves the progress alone, which names the number of batches from the
    second on: texts end early.

    No global random state is read or changed. EngineError if the model writes nothing but its end mark.
    """
    kept = None if cache is None else _Kept(cache, adapter, seed)
    barren = written = 0
    for batch in count():
        texts = kept.read(batch) if kept is not None else None
        if texts is None:
            of = f" of about {max(batch + 1, -(-tokens * batch // written))}" if tokens and written else ""
            stage = f"sample text, batch {batch + 1}{of}"
            texts = _sample(adapter, seed=seed, batch=batch, progress=partial(progress, stage))
            if kept is not None:
                kept.append(texts)
        yield from texts
        if tokens is not None:
            written += sum(len(adapter.tokenizer(text)["input_ids"]) for text in texts)
        barren = 0 if texts else barren + 1
        if barren == 3:
            raise EngineError("sampling from the model gives no text", hint="Name another corpus for the statistics.")


class _Kept:
    """One JSON line of texts per finished batch; a line cut short by a kill is dropped."""

    def __init__(self, directory: Path, adapter: ModelAdapter, seed: int) -> None:
        described = sampling_description(adapter, seed)
        self._path = directory / f"self-{short(digest('sampling', canonical_json(described)))}.jsonl"
        self._batches: list[list[str]] = []
        try:
            lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
            for line in lines:
                self._batches.append([str(text) for text in json.loads(line)])
        except ValueError:  # sampled again from here on
            self._rewrite()
        except OSError:
            pass

    def read(self, batch: int) -> list[str] | None:
        return self._batches[batch] if batch < len(self._batches) else None

    def append(self, texts: list[str]) -> None:
        self._batches.append(texts)
        self._rewrite()

    def _rewrite(self) -> None:
        with suppress(StorageError):  # a cache: what cannot be kept is sampled again, the same
            write_atomic(self._path, "".join(json.dumps(batch) + "\n" for batch in self._batches).encode())


def _new_tokens(adapter: ModelAdapter) -> int:
    positions = getattr(adapter.model.config, "max_position_embeddings", None) or _LENGTH + 8
    return max(1, min(_LENGTH, int(positions) - 8))


def _sample(adapter: ModelAdapter, *, seed: int, batch: int, progress: Callable[[int, int], None]) -> list[str]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + batch)
    ids = _starts(adapter, batch)
    ends = _end_tokens(adapter)
    done = torch.zeros(len(ids), dtype=torch.bool)
    step = ids.to(adapter.device)
    cache = {cache_argument(adapter.model): DynamicCache(config=adapter.model.config)}
    with evaluating(adapter.model), torch.no_grad():
        for number in range(_new_tokens(adapter)):
            progress(number, _new_tokens(adapter))
            mask = torch.ones(ids.shape, dtype=torch.long, device=adapter.device)
            output = adapter.model(input_ids=step, attention_mask=mask, use_cache=True, **cache)
            probabilities = output.logits[:, -1].float().softmax(-1).cpu()
            if not bool(probabilities.isfinite().all()):
                raise EngineError(
                    "the model's probabilities are not finite", hint="Use a wider dtype than the model's."
                )
            chosen = torch.multinomial(probabilities, 1, generator=generator)
            ids = torch.cat([ids, chosen], dim=1)
            done |= torch.isin(chosen[:, 0], ends)
            if bool(done.all()):
                break
            step = chosen.to(adapter.device)
    progress(_new_tokens(adapter), _new_tokens(adapter))
    return [text for row in ids for text in [_text(adapter.tokenizer, row, ends)] if text]


def _starts(adapter: ModelAdapter, batch: int) -> Tensor:
    """First tokens [32, n] of a batch: prefixes that are equally many tokens long, so without padding."""
    spelled = [list(adapter.tokenizer(prefix)["input_ids"]) for prefix in _PREFIXES]
    lengths = [len(ids) for ids in spelled]
    usual = max(sorted(set(lengths) - {0}), key=lengths.count)
    same = [ids for ids in spelled if len(ids) == usual]
    return torch.tensor([same[(batch * _ROWS + row) % len(same)] for row in range(_ROWS)])


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
