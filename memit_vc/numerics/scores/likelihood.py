"""Log-probabilities of continuations, many prompts at once, as the benchmarks and the health probe need them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memit_vc.errors import EngineError
from memit_vc.numerics.forward.lengths import positions
from memit_vc.numerics.forward.replay import evaluating
from memit_vc.numerics.forward.tokens import Target, TokenRow, encode, target_rows
from memit_vc.numerics.forward.trees import grouped, laid_out
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.memory import halving
from memit_vc.numerics.scores.generation import generate


@dataclass(frozen=True, slots=True)
class Continued:
    """How a model continues a prompt with a given text; `nll` is the mean −log P of its tokens in nats."""

    nll: float
    argmax: bool
    """All tokens of the continuation are the argmax."""
    matched: float
    """Share of its tokens that are the argmax."""
    predicted: tuple[int, ...]
    """The argmax where each of its tokens is predicted."""


def continuations(
    adapter: ModelAdapter,
    asked: Sequence[tuple[str, Target]],
    *,
    max_tokens: int = 2048,
    on_done: Callable[[int, int], None] | None = None,
) -> list[Continued]:
    """Teacher-forced scores of (prompt, continuation) pairs.

    What prompts and continuations begin with in common is computed once (`trees.py`). Logits are computed only where a
    token is predicted.
    """
    rows = target_rows(adapter.tokenizer, asked)
    hosts, host_of = _share(rows)
    results: list[Continued | None] = [None] * len(rows)
    guests: list[list[int]] = [[] for _ in hosts]
    for index, host in enumerate(host_of):
        guests[host].append(index)
    scored: set[int] = set()
    done = 0

    def score(tokens: int) -> None:
        nonlocal done
        left = [i for i in range(len(hosts)) if i not in scored]
        for numbers in grouped(adapter, [hosts[i] for i in left], max_tokens=tokens):
            group = [left[number] for number in numbers]
            hidden, places = _hidden(adapter, [hosts[i] for i in group])
            at: list[int] = []
            columns: list[int] = []
            labels: list[int] = []
            lengths: list[int] = []
            owners = [index for host in group for index in guests[host]]
            for (line, of_host), host in zip(places, group, strict=True):
                for index in guests[host]:
                    row = rows[index]
                    at += [line] * len(row.labels)
                    columns += [of_host[position] for position in row.positions]
                    labels += row.labels
                    lengths.append(len(row.labels))
            logits = adapter.logits(hidden[at, columns])
            target = torch.tensor(labels, device=logits.device)
            nll = torch.nn.functional.cross_entropy(logits, target, reduction="none").cpu()
            best = logits.argmax(-1)
            hit = (best == target).float().cpu()
            parts = (torch.split(t, lengths) for t in (nll, hit, best.cpu()))
            for index, n, h, b in zip(owners, *parts, strict=True):
                results[index] = Continued(float(n.mean()), bool(h.all()), float(h.mean()), tuple(b.tolist()))
            scored.update(group)
            done += len(owners)
            if on_done is not None:
                on_done(done, len(rows))

    with evaluating(adapter.model), torch.no_grad():
        halving(max_tokens, score)
    return [r for r in results if r is not None]


def first_tokens(adapter: ModelAdapter, texts: Sequence[str], *, max_tokens: int = 2048) -> list[int]:
    """The most likely token after each text."""
    rows = [text.ids for text in encode(adapter.tokenizer, texts)]
    found = [0] * len(rows)

    def read(tokens: int) -> None:
        for group in grouped(adapter, rows, max_tokens=tokens):
            hidden, places = _hidden(adapter, [rows[i] for i in group])
            last = [(line, columns[-1]) for line, columns in places]
            best = adapter.logits(hidden[[line for line, _ in last], [column for _, column in last]]).argmax(-1)
            for index, token in zip(group, best.tolist(), strict=True):
                found[index] = token

    with evaluating(adapter.model), torch.no_grad():
        if rows:
            halving(max_tokens, read)
    return found


def _share(rows: Sequence[TokenRow]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Distinct rows that are not the beginning of another row, and for each row the one that it is read off."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].ids, reverse=True)
    hosts: list[tuple[int, ...]] = []
    host_of = [0] * len(rows)
    for index in order:  # in descending order a beginning directly follows a row that it begins
        ids = rows[index].ids
        if not hosts or hosts[-1][: len(ids)] != ids:
            hosts.append(ids)
        host_of[index] = len(hosts) - 1
    return hosts, host_of


def perplexity(adapter: ModelAdapter, texts: Sequence[str], *, tokens: int = 4096, window: int = 512) -> float:
    """exp(mean NLL per token) over windows of at most `window` tokens, until `tokens` tokens are predicted.

    EngineError if the texts hold no two tokens in a row.
    """
    limit = positions(adapter.model.config)
    window = min(window, limit) if limit else window
    windows: list[Sequence[int]] = []
    count = 0
    for text in encode(adapter.tokenizer, texts):
        for start in range(0, len(text.ids), window):
            ids = text.ids[start : start + window][: tokens - count + 1]
            if len(ids) > 1 and count < tokens:
                windows.append(ids)
                count += len(ids) - 1
    if not count:
        raise EngineError("the text for the perplexity is empty", hint="Give at least one sentence.")
    total = 0.0
    with evaluating(adapter.model), torch.no_grad():
        for group in grouped(adapter, windows, max_tokens=2 * window):
            rows = [windows[i] for i in group]
            hidden, places = _hidden(adapter, rows)
            read = [hidden[line, list(columns[:-1])] for line, columns in places]
            logits = adapter.logits(torch.cat(read))
            labels = torch.tensor([token for row in rows for token in row[1:]], device=logits.device)
            total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return float(torch.tensor(total / count, dtype=torch.float64).exp())


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote behind a prompt: its first line, and the ids that spell it."""

    text: str
    ids: tuple[int, ...]


def greedy(adapter: ModelAdapter, prompts: Sequence[str], *, new_tokens: int = 8) -> list[Written]:
    """The model's most likely continuation of each prompt: at most `new_tokens` tokens, cut at a line's end."""
    written = (generate(adapter, encoded.ids, new_tokens=new_tokens) for encoded in encode(adapter.tokenizer, prompts))
    return [_first_line(adapter.tokenizer, list(each.ids)) for each in written]


def _first_line(tokenizer: Any, ids: list[int]) -> Written:
    """Ids up to the last that adds to the line: an end mark, and the token that ends the line, are not part of it."""

    def line(n: int) -> str:
        return str(tokenizer.decode(ids[:n], skip_special_tokens=True)).strip().split("\n", 1)[0].strip()

    text = line(len(ids))
    return Written(text, tuple(ids[: next((n for n in range(len(ids) + 1) if line(n) == text), len(ids))]))


def _hidden(adapter: ModelAdapter, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Sequence[tuple[int, Sequence[int]]]]:
    """Final hidden states [lines, width, d_model], and the line of each row and the column of each of its tokens."""
    laid = laid_out(adapter, rows)
    return adapter.backbone(**laid.inputs, use_cache=False).last_hidden_state, laid.places
