"""Earlier facts in the search for residuals, asked again so that a later commit does not undo them.

The history term of `solve.py` holds the outputs at the earlier facts' keys, but only as well as the ridge lets it. So
the search asks earlier prompts, too, in turns. This is the rehearsal of continual learning (Robins 1995,
doi:10.1080/09540099550039318), with the facts themselves in place of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memit_vc.numerics.forward.lengths import positions
from memit_vc.numerics.forward.tokens import target_rows
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.search.continuation import Continuation, Continuations
from memit_vc.objects import Fact, digest

_LEAST = 4
"""Earlier facts in a step, at least; else one for two facts that are searched for."""
_TIMES = 3
"""How often a fact has its turn in all steps, at least."""


def _taken(facts: Sequence[Fact], searched: Sequence[Fact], most: int) -> Sequence[Fact]:
    asked = {fact.question for fact in searched}
    kept = [fact for fact in facts if fact.question not in asked]
    if len(kept) <= most:
        return kept
    mixed = "".join(fact.id for fact in searched)
    return sorted(kept, key=lambda fact: digest("rehearsal", (fact.id + mixed).encode()))[:most]


@dataclass(frozen=True)
class _Group:
    """Rows that are run together. Of each token of their targets: line, column, label and share of the loss."""

    count: int
    continuation: Continuation
    lines: Tensor
    columns: Tensor
    labels: Tensor
    shares: Tensor


class Rehearsal:
    """Prompts of earlier facts with their targets. What the model does not answer before the edit is not asked for.

    `facts` take turns: a step has one for two of the `searched`, at least four. `weight` is that of a fact's mean NLL,
    on average over the steps; 0: nothing is asked. Of more facts than have three turns in so many `steps`, a part is
    taken, another one for other `searched` facts. Two kinds of facts are left out: those that contradict one of these,
    and those that are longer than the model has positions (others may have committed them).
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        facts: Sequence[Fact],
        *,
        weight: float,
        searched: Sequence[Fact],
        steps: int,
        layer: int,
        plain: bool,
        through: bool,
    ) -> None:
        self._adapter = adapter
        at_once = max(_LEAST, len(searched) // 2)
        facts = _taken(facts, searched, at_once * max(1, steps // _TIMES)) if weight else []
        rows = target_rows(
            adapter.tokenizer, [(f.prompt, f.target) for f in facts], spans=[f.subject_span for f in facts]
        )
        limit = positions(adapter.model.config)
        self._rows = [row for row in rows if limit is None or len(row.ids) <= limit]
        self._turns = -(-len(self._rows) // at_once)
        self._weight = weight * self._turns
        self._continuations = Continuations(adapter, self._rows, layer=layer, plain=plain, through=through)
        self._groups: dict[int, list[_Group]] = {}
        self._max_tokens = 0

    def losses(self, step: int, max_tokens: int, run: Callable[[Continuation, int, bool], Tensor]) -> Iterator[Tensor]:
        """The weighted loss of this step's rows, with a graph, in parts of at most `max_tokens` tokens.

        `run(continuation, rows, changed)` gives the hidden states [lines, width, d_model] that the head reads, with
        what is searched for or without it.
        """
        if not self._turns:
            return
        turn = step % self._turns
        if max_tokens != self._max_tokens:
            self._max_tokens, self._groups = max_tokens, {}
        if turn not in self._groups:
            with torch.no_grad():
                numbers = range(turn, len(self._rows), self._turns)
                laid_out = self._continuations.lay_out(list(numbers), max_tokens=max_tokens)
                self._groups[turn] = [self._group(rows, each, run) for rows, each in laid_out]
        for group in self._groups[turn]:
            if bool(group.shares.any()):
                logits = self._logits(group, run(group.continuation, group.count, True))
                nll = torch.nn.functional.cross_entropy(logits, group.labels.to(logits.device), reduction="none")
                yield self._weight * (nll * group.shares.to(nll)).sum()

    def _group(
        self, rows: Sequence[int], continuation: Continuation, run: Callable[[Continuation, int, bool], Tensor]
    ) -> _Group:
        owners, labels = list[int](), list[int]()
        places = list[tuple[int, int]]()
        for index, number in enumerate(rows):
            row = self._rows[number]
            owners += [index] * len(row.labels)
            places += [continuation.place(index, position) for position in row.positions]
            labels += row.labels
        lines, columns = torch.tensor(places).T
        owner, label = torch.tensor(owners), torch.tensor(labels)
        group = _Group(len(rows), continuation, lines, columns, label, torch.zeros(len(labels)))
        hit = (self._logits(group, run(continuation, len(rows), False)).argmax(-1).cpu() == label).float()
        tokens = torch.bincount(owner).float()
        answered = torch.zeros(len(rows)).index_add(0, owner, hit) == tokens
        return _Group(len(rows), continuation, lines, columns, label, (answered / tokens)[owner])

    def _logits(self, group: _Group, hidden: Tensor) -> Tensor:
        logits: Tensor = self._adapter.head(hidden[group.lines.to(hidden.device), group.columns.to(hidden.device)])
        return logits
