"""z: the hidden state at the subject's last token that makes the model say the new target.

Meng et al. 2023 (arXiv:2210.07229), section 4.2: for each fact, Adam on δ at the output of the last edited block, with
loss = mean over templates of the mean NLL of the target's tokens + kl_factor · KL(P_δ ‖ P_0) at the subject's last
token of "{subject} is a" + v_weight_decay · ‖δ‖ / ‖h‖². Here for many facts at once: their δ are independent, so one
backward over all their rows gives every gradient, and Adam, clamp and stopping rule work row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memit_vc.errors import EngineError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.forward.replay import evaluating
from memit_vc.numerics.forward.rows import search_rows
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.masters import frozen
from memit_vc.numerics.model.memory import halving
from memit_vc.numerics.search.continuation import Continuation, Continuations
from memit_vc.objects import Fact

_COMPACT_BELOW = 0.75
"""Rows are laid out again once this share of them is still searched for: a layout costs about one step."""


@dataclass(frozen=True)
class Targets:
    """What the search found, fact by fact. `z` [n, d_model] float32; `steps` counts evaluations of the loss."""

    z: Tensor
    steps: tuple[int, ...]
    loss: tuple[float, ...]


def find_targets(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    *,
    layer: int,
    hparams: MEMITHyperParams,
    templates: Sequence[Template],
    max_tokens: int = 1024,
    plain: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Targets:
    """Search z for every fact of the batch; the model is only read.

    `max_tokens` bounds the tokens of one forward with gradients (halved on out-of-memory); `plain` forces the
    whole-model path; `on_step(step, still searching)` is called after each step. EngineError if a loss
    is not finite.
    """
    with evaluating(adapter.model), frozen(adapter.model):
        search = _Search(adapter, facts, layer, hparams, templates, max_tokens, plain)
        for step in range(hparams.v_num_grad_steps):
            search.step(last=step == hparams.v_num_grad_steps - 1)
            if on_step is not None:
                on_step(step + 1, len(search.active))
            if not search.active:
                break
    return search.result()


@dataclass(frozen=True)
class _Part:
    """Rows that are run together, and where their predictions are read."""

    rows: tuple[int, ...]
    continuation: Continuation
    owners: Tensor
    """The fact of each row."""
    nll: tuple[Tensor, Tensor, Tensor, Tensor]
    """(fact, line, column, label) of each target token, and in `weight` its share of the fact's loss."""
    weight: Tensor
    kl: tuple[Tensor, Tensor, Tensor]


class _Search:
    def __init__(
        self,
        adapter: ModelAdapter,
        facts: Sequence[Fact],
        layer: int,
        hparams: MEMITHyperParams,
        templates: Sequence[Template],
        max_tokens: int,
        plain: bool,
    ) -> None:
        self.adapter, self.facts, self.layer, self.hparams = adapter, facts, layer, hparams
        self.max_tokens = max_tokens
        self.rows = search_rows(adapter.tokenizer, facts, templates)
        self.templates = len(templates)
        self.continuations = Continuations(adapter, [r.row for r in self.rows], layer=layer, plain=plain)
        self.active = set(range(len(facts)))
        self.device = next(adapter.blocks[layer].parameters()).device
        self.h = torch.zeros(len(facts), adapter.hidden_size, device=self.device)
        self.delta = torch.zeros_like(self.h, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.delta], lr=hparams.v_lr)
        self.found = torch.zeros_like(self.h)
        self.steps = [0] * len(facts)
        self.losses = [0.0] * len(facts)
        self.started = False
        self.reached: set[int] = set()
        self.reference: dict[int, Tensor] = {}
        self.laid_out: list[_Part] = []
        self.laid_out_rows = 0

    def _lay_out(self) -> None:
        """The rows that are still searched for, in parts."""
        rows = [i for i, r in enumerate(self.rows) if r.fact in self.active]
        laid_out = self.continuations.lay_out(rows, max_tokens=self.max_tokens)
        self.laid_out = [self._part(part, run) for part, run in laid_out]
        self.laid_out_rows = len(rows)

    def _part(self, rows: Sequence[int], run: Continuation) -> _Part:
        tokens, weights, watched = [], [], []
        for index, number in enumerate(rows):
            r = self.rows[number]
            if r.kind == "kl":
                watched.append((r.fact, *run.place(index, r.row.pivot)))
            for position, label in zip(r.row.positions, r.row.labels, strict=True):
                tokens.append((r.fact, *run.place(index, position), label))
                weights.append(1.0 / (len(r.row.labels) * self.templates))
        return _Part(
            tuple(rows),
            run,
            torch.tensor([self.rows[number].fact for number in rows]),
            tuple(torch.tensor([t[i] for t in tokens], dtype=torch.long) for i in range(4)),  # type: ignore[arg-type]
            torch.tensor(weights),
            tuple(torch.tensor([w[i] for w in watched], dtype=torch.long) for i in range(3)),  # type: ignore[arg-type]
        )

    def step(self, *, last: bool) -> None:
        """One evaluation of every searched fact's loss; then an update, unless it was the last or the fact is done."""
        losses, hit = self._evaluate(last=last)
        done = []
        for fact in sorted(self.active):
            self.steps[fact] += 1
            self.losses[fact] = losses[fact]
            if losses[fact] != losses[fact]:
                raise EngineError(
                    f"the loss of fact {fact + 1} ({self.facts[fact].prompt!r}) is not a number",
                    hint="Lower v_lr, or use a wider dtype than the model's.",
                )
            if last or self._stops(fact, losses[fact], hit):
                done.append(fact)
        with torch.no_grad():
            for fact in done:
                self.found[fact] = self.delta[fact]
        self.active.difference_update(done)
        self.reached |= hit
        if not self.active:
            return
        self.optimizer.step()
        with torch.no_grad():
            longest = self.hparams.clamp_norm_factor * self.h.norm(dim=1)
            norms = self.delta.norm(dim=1)
            over = norms > longest
            self.delta[over] *= (longest[over] / norms[over])[:, None]
        if sum(r.fact in self.active for r in self.rows) <= _COMPACT_BELOW * self.laid_out_rows:
            self.laid_out = []  # before the next evaluation, which is ready for a lack of memory

    def _stops(self, fact: int, loss: float, hit: set[int]) -> bool:
        if self.hparams.early_stop == "loss":
            return loss < self.hparams.early_stop_loss
        # one step after the target was the argmax in every template, and still is
        return fact in self.reached and fact in hit

    def _evaluate(self, *, last: bool) -> tuple[list[float], set[int]]:
        def evaluated(max_tokens: int) -> tuple[list[float], set[int]]:
            self.optimizer.zero_grad(set_to_none=True)
            if max_tokens != self.max_tokens or not self.laid_out:
                self.max_tokens, self.laid_out = max_tokens, []
                self._lay_out()
            with torch.set_grad_enabled(not last):  # whatever the caller's mode: scripts edit under torch.no_grad()
                return self._forward_backward(last=last)

        return halving(self.max_tokens, evaluated)

    def _forward_backward(self, *, last: bool) -> tuple[list[float], set[int]]:
        """Each fact's loss, and the facts whose targets are the argmax everywhere; gradients if an update follows."""
        n = len(self.facts)
        total = torch.zeros(n, device=self.device)
        missed = torch.zeros(n, dtype=torch.bool, device=self.device)
        for part in self.laid_out:
            loss, wrong = self._part_loss(part)
            if not last:
                loss.sum().backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            missed |= wrong
        decay = self.hparams.v_weight_decay * self.delta.norm(dim=1) / self.h.norm(dim=1) ** 2
        if not last:
            decay.sum().backward()
        total += decay.detach()
        self.started = True
        missing = missed.tolist()
        return total.tolist(), {fact for fact in self.active if not missing[fact]}

    def _part_loss(self, part: _Part) -> tuple[Tensor, Tensor]:
        adapter, n = self.adapter, len(self.facts)
        delta = self.delta[part.owners.to(self.device)]
        loss_hidden, last_hidden = part.continuation.run(delta, loss_block=self.hparams.v_loss_layer)
        self._remember(part)
        loss = torch.zeros(n, device=self.device)
        wrong = torch.zeros(n, dtype=torch.bool, device=self.device)
        facts, rows, columns, labels = (t.to(loss_hidden.device) for t in part.nll)
        if len(facts):
            logits = adapter.head(loss_hidden[rows, columns])
            labels = labels.to(logits.device)
            nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none") * part.weight.to(logits)
            loss = loss.index_add(0, facts.to(self.device), nll.to(self.device))
            misses = (logits.detach().argmax(-1) != labels).to(self.device)
            wrong[facts.to(self.device)[misses]] = True
        watched, rows, columns = (t.to(last_hidden.device) for t in part.kl)
        if len(watched):
            log_p = adapter.head(last_hidden[rows, columns]).log_softmax(-1)
            first = torch.stack(
                [self.reference.setdefault(f, log_p[i].detach()) for i, f in enumerate(watched.tolist())]
            )
            kl = (log_p.exp() * (log_p - first)).sum(-1) * self.hparams.kl_factor
            loss = loss.index_add(0, watched.to(self.device), kl.to(self.device))
        return loss, wrong

    def _remember(self, part: _Part) -> None:
        """h: the hidden state of the row of the first template."""
        if self.started:
            return
        for index, number in enumerate(part.rows):
            r = self.rows[number]
            if r.kind == "nll" and number == r.fact * self.templates:
                self.h[r.fact] = part.continuation.start[index].to(self.device)

    def result(self) -> Targets:
        return Targets((self.h + self.found).detach(), tuple(self.steps), tuple(self.losses))
