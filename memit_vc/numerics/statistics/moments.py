"""Second moments C = E[k kᵀ] of the keys of every edited layer, in one pass over plain text.

Meng et al. 2023 (arXiv:2210.07229), section 4.3 and equation 15. Uncentred, over all tokens, special tokens in front
included. The forward stops at the last edited projection; no logits are computed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memit_vc.errors import IntegrityError, UnsupportedModelError, UsageError
from memit_vc.numerics.forward.replay import evaluating
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.statistics.expert_grams import ExpertGrams
from memit_vc.numerics.statistics.gram import Gram
from memit_vc.numerics.statistics.moments_team import Rows, SharedSums, add_keys, empty_sums
from memit_vc.numerics.statistics.tensorfile import count_as_absent, read_tensors, write_tensors
from memit_vc.numerics.statistics.token_batches import SHORTEST, token_batches
from memit_vc.objects.ids import JsonValue
from memit_vc.progress import Progress, silent

_STAGE = "second moments"
_PARTIAL = "partial moments"


@dataclass(frozen=True)
class Moments:
    """`moment[layer]` is C = E[k kᵀ], float32 [d_in, d_in] on CPU, exactly symmetric: exact sums rounded once. Of a
    layer with experts it holds the blocks E[g_e² k_e k_eᵀ], [E, d_in, d_in].

    `count` is the number of tokens behind it, `tokens` the number that was asked for: fewer stand behind it where the
    corpus was shorter.
    """

    moment: Mapping[int, Tensor]
    count: int
    tokens: int


@dataclass
class _Run:
    """Where a pass stands: batches done, tokens done, a running hash of the token ids, and the sums."""

    sums: dict[int, Gram | ExpertGrams]
    batches: int = 0
    count: int = 0
    seen: Any = field(default_factory=hashlib.sha256)

    @classmethod
    def fresh(cls, adapter: ModelAdapter, layers: Sequence[int]) -> _Run:
        sums: dict[int, Gram | ExpertGrams] = {}
        for layer in layers:
            experts = adapter.experts(layer)
            if experts is None:
                sums |= empty_sums(adapter, [layer])
            else:
                _, count, size = experts.stack.shape
                sums[layer] = ExpertGrams.zeros(count, size, device=experts.stack.device)
        return cls(sums)

    def passed(self, rows: Sequence[Sequence[int]]) -> None:
        self.batches += 1
        self.count += sum(map(len, rows))
        for row in rows:
            self.seen.update(torch.tensor([len(row), *row], dtype=torch.int64).numpy().tobytes())


@dataclass(frozen=True)
class _Plan:
    """What decides which tokens stand in which batch, and so every bit of the sums."""

    layers: tuple[int, ...]
    tokens: int
    max_length: int
    batch_tokens: int

    def batches(self, adapter: ModelAdapter, texts: Iterable[str]) -> Iterator[list[list[int]]]:
        return token_batches(
            adapter.tokenizer,
            texts,
            tokens=self.tokens,
            max_length=self.max_length,
            batch_tokens=self.batch_tokens,
        )

    def named(self) -> dict[str, JsonValue]:
        return {**asdict(self), "layers": list(self.layers)}


def collect(
    adapter: ModelAdapter,
    corpus_texts: Iterable[str],
    layers: Sequence[int],
    *,
    tokens: int,
    max_length: int = 512,
    resume: Path | None = None,
    progress: Progress = silent,
    batch_tokens: int = 8192,
    save_every: float = 20.0,
) -> Moments:
    """Second moments of `layers` over the first `tokens` tokens of the texts, each text cut at `max_length` tokens.

    With `resume`, the sums so far are saved there about every `save_every` seconds, and a later call with the same
    arguments goes on from them to bit-identical results; a file that does not fit is ignored. The file is left for the
    caller to remove once the result is stored. A corpus that ends early gives what there is (`Moments.count`).

    UsageError for a corpus without a usable text, EngineError for activations that are not finite.
    """
    layers = sorted(set(layers))
    if not layers or tokens < 1 or max_length < 1:
        raise UsageError("second moments need at least one layer, one token and a length of one")
    if resume is not None and iter(corpus_texts) is corpus_texts:
        raise TypeError("to be resumed, a pass needs texts that can be read again: a corpus or a list, not an iterator")
    plan = _Plan(tuple(layers), tokens, _within_positions(adapter, max_length), batch_tokens)
    run, batches = _started(adapter, plan, corpus_texts, resume)
    saved_at, save_took = time.monotonic(), 0.0
    progress(_STAGE, run.count, tokens)
    with torch.no_grad(), evaluating(adapter.model), _summing(adapter, run.sums) as summing:
        while group := list(islice(batches, summing.width)):
            summing.add(group)
            for rows in group:
                run.passed(rows)
            progress(_STAGE, run.count, tokens)
            waited = time.monotonic() - saved_at
            if resume is not None and run.count < tokens and waited >= max(save_every, 10 * save_took):
                started = time.monotonic()
                summing.gather()
                _save(resume, run, plan)
                saved_at = time.monotonic()
                save_took = saved_at - started
        summing.gather()
    if not run.count:
        raise UsageError(
            f"the corpus holds no text of at least {SHORTEST} tokens", hint="Name another corpus for the statistics."
        )
    progress(_STAGE, tokens, tokens)
    return Moments({layer: run.sums.pop(layer).mean(run.count) for layer in layers}, run.count, tokens)


def _within_positions(adapter: ModelAdapter, max_length: int) -> int:
    positions = getattr(adapter.model.config, "max_position_embeddings", None)
    return min(max_length, int(positions)) if positions else max_length


class _Alone:
    """The sums of one process."""

    width = 1

    def __init__(self, adapter: ModelAdapter, sums: Mapping[int, Gram | ExpertGrams]) -> None:
        self._adapter, self._sums = adapter, sums

    def add(self, batches: Sequence[Rows]) -> None:
        for rows in batches:
            add_keys(self._adapter, rows, self._sums)

    def gather(self) -> None:
        """The sums are whole as they are."""


@contextmanager
def _summing(adapter: ModelAdapter, sums: Mapping[int, Gram | ExpertGrams]) -> Iterator[_Alone | SharedSums]:
    """How batches are added: by this process, or by all of a torchrun launch. UnsupportedModelError for a launch on a
    model with experts.
    """
    if adapter.team is None:
        yield _Alone(adapter, sums)
        return
    plain = {layer: gram for layer, gram in sums.items() if isinstance(gram, Gram)}
    if len(plain) < len(sums):
        raise UnsupportedModelError(
            "the statistics of experts are computed by one process",
            hint="Run `memitvc stats` without torchrun; later commands find its result.",
        )
    shared = SharedSums(adapter, adapter.team, plain)
    with adapter.team.job(shared.order()):
        yield shared
        shared.end()


def _save(path: Path, run: _Run, plan: _Plan) -> None:
    tensors = {f"{layer}.{name}": t for layer, gram in run.sums.items() for name, t in gram.tensors().items()}
    position = {"batches": run.batches, "count": run.count, "seen": run.seen.hexdigest()}
    write_tensors(path, tensors, {"kind": _PARTIAL, **plan.named(), **position})


def _started(
    adapter: ModelAdapter, plan: _Plan, texts: Iterable[str], path: Path | None
) -> tuple[_Run, Iterator[list[list[int]]]]:
    """Where to begin, and the batches that are left: from a saved position that fits the plan and these very texts,
    otherwise from the start.
    """
    run, batches = _Run.fresh(adapter, plan.layers), plan.batches(adapter, texts)
    saved = None if path is None else _saved(path, plan)
    if saved is None:
        return run, batches
    tensors, metadata = saved
    for rows in islice(batches, int(metadata["batches"])):
        run.passed(rows)
    fits = (run.batches, run.seen.hexdigest()) == (metadata["batches"], metadata["seen"])
    for layer, gram in run.sums.items():
        prefix = f"{layer}."
        fits = fits and gram.restore({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
    return (run, batches) if fits else (_Run.fresh(adapter, plan.layers), plan.batches(adapter, texts))


def _saved(path: Path, plan: _Plan) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    try:
        tensors, metadata = read_tensors(path)
    except FileNotFoundError:
        return None
    except IntegrityError as error:
        count_as_absent(error)
        return None
    wanted = {"kind": _PARTIAL, **plan.named()}
    return (tensors, metadata) if all(metadata.get(k) == v for k, v in wanted.items()) else None
