"""z: the hidden state at the subject's last token that makes the model say the new target.

Meng et al. 2023 (arXiv:2210.07229), section 4.2: for each fact, Adam on δ at the output of the last edited block, with
loss = mean over templates of the mean NLL of the target's tokens + kl_factor · KL(P_δ ‖ P_0) at the subject's last
token of "{subject} is a" + v_weight_decay · ‖δ‖ / ‖h‖². More KL rows are ours (`rows.py`). Here for many facts at once:
their δ are independent, so one backward over all their rows gives every gradient, and Adam, clamp and stopping rule
work row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from memit_vc.errors import EngineError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.forward.lengths import positions
from memit_vc.numerics.forward.questions import SEARCHED
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
    """What the search found, fact by fact. `z` [n, d_model] float32; `steps` counts evaluations of the loss.

    Of a search for residuals, `z` holds their columns instead (`residuals.py`).
    """

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
    anchors: Sequence[Template] | None = None,
    max_tokens: int = 1024,
    plain: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Targets:
    """Search z for every fact of the batch; the model is only read.

    `anchors` are those of the facts (`sinks.py`); None: the plain prompts.
    `max_tokens` bounds the tokens of one forward with gradients (halved on out-of-memory); `plain` forces the
    whole-model path; `on_step(step, still searching)` is called after each step. EngineError if a loss
    is not finite.
    """
    return search_through(
        adapter,
        lambda: Search(adapter, facts, layer, hparams, templates, max_tokens, plain, anchors),
        on_step,
    )


def search_through(
    adapter: ModelAdapter, begin: Callable[[], Search], on_step: Callable[[int, int], None] | None
) -> Targets:
    """A search from its first step until no fact is left, or the steps are used up."""
    with evaluating(adapter.model), frozen(adapter.model):
        search = begin()
        steps = search.hparams.v_num_grad_steps
        for step in range(steps):
            search.step(last=step == steps - 1)
            if on_step is not None:
                on_step(step + 1, len(search.active))
            if not search.active:
                break
    return search.result()


@dataclass(frozen=True)
class _Indices:
    """Of a part, on one device. Indices are of the part's rows."""

    rows: Tensor
    """Number of each row among all rows of the search."""
    owners: Tensor
    """The fact of each row."""
    weight: Tensor
    """Each row's share of its fact's loss, for the steps in which it takes part."""
    turns: Tensor
    """One of so many steps is a row's."""
    nll: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    """(row, line, column, label, weight in the row's loss) of each target token, and of what ends an answer."""
    kl: tuple[Tensor, Tensor, Tensor]
    """(row, line, column) where what else the model says is read."""

    def to(self, device: torch.device) -> _Indices:
        nll, kl = (tuple(t.to(device) for t in group) for group in (self.nll, self.kl))
        rows, owners, weight, turns = (t.to(device) for t in (self.rows, self.owners, self.weight, self.turns))
        return _Indices(rows, owners, weight, turns, nll, kl)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Part:
    """Rows that are run together, and where their predictions are read."""

    continuation: Continuation
    rows: Sequence[int]
    watched: Sequence[int]
    """The numbers of its `kl` rows."""
    indices: _Indices
    _copies: dict[torch.device, _Indices] = field(default_factory=dict)

    def on(self, device: torch.device) -> _Indices:
        """Where a step needs them. Copied once: a GPU would wait for each copy."""
        if device not in self._copies:
            self._copies[device] = self.indices.to(device)
        return self._copies[device]


class Search:
    def __init__(
        self,
        adapter: ModelAdapter,
        facts: Sequence[Fact],
        layer: int,
        hparams: MEMITHyperParams,
        templates: Sequence[Template],
        max_tokens: int,
        plain: bool,
        anchors: Sequence[Template] | None = None,
        *,
        through: bool = False,
    ) -> None:
        self.adapter, self.facts, self.layer, self.hparams = adapter, facts, layer, hparams
        self.max_tokens = max_tokens
        self.rows = search_rows(
            adapter.tokenizer,
            facts,
            templates,
            kl_factor=hparams.kl_factor,
            keep=[Template.parse(text) for text in hparams.keep_questions or SEARCHED],
            keep_factor=hparams.keep_factor,
            name_factor=hparams.name_factor,
            anchors=anchors,
            positions=positions(adapter.model.config),
        )
        self.owner = torch.tensor([r.fact for r in self.rows])
        self.asks = torch.tensor([r.kind == "nll" for r in self.rows])
        self.asked = torch.zeros(len(facts)).index_add(0, self.owner, self.asks.float())
        self.first = {r.fact: number for number, r in reversed(list(enumerate(self.rows)))}
        self.phase = self._phases(hparams.rotate)
        self.continuations = Continuations(
            adapter, [r.row for r in self.rows], layer=layer, plain=plain, through=through
        )
        self.active = set(range(len(facts)))
        self.device = next(adapter.blocks[layer].parameters()).device
        self.h = torch.zeros(len(facts), adapter.hidden_size, device=self.device)
        self.delta = torch.zeros_like(self.h, requires_grad=True)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam([self.delta], lr=hparams.v_lr)
        self.found = torch.zeros_like(self.h)
        self.taken = 0
        self.steps = [0] * len(facts)
        self.losses = [0.0] * len(facts)
        self.reached: set[int] = set()
        self.reference: dict[int, Tensor] = {}
        """log P_0 [vocabulary] of each `kl` row, without δ."""
        self.value = torch.zeros(len(self.rows), device=self.device)
        """Of each row, when it last took part: the weighted loss, in `nll` the NLL of its labels by their shares, in
        `wrong` a missed argmax.
        """
        self.nll = torch.full_like(self.value, float("inf"))
        self.wrong = torch.ones_like(self.value)
        self.laid_out: dict[int, list[Part]] = {}
        self.laid_out_facts = len(facts)

    def _phases(self, rotate: int) -> list[int]:
        """The steps in which each row takes part: −1 all of them, else those with this number modulo `rotate`.

        A fact's first row, the plain prompt, is always there. The others take turns, each kind in its own round.
        """
        turns: dict[tuple[int, str], int] = {}
        phases = []
        for number, r in enumerate(self.rows):
            if rotate == 1 or number == self.first[r.fact]:
                phases.append(-1)
                continue
            turn = turns[r.fact, r.kind] = turns.get((r.fact, r.kind), -1) + 1
            phases.append(turn % rotate)
        return phases

    def _parts(self, phase: int) -> list[Part]:
        """The rows that are still searched for and take part in a phase's steps."""
        if phase not in self.laid_out:
            rows = [i for i, r in enumerate(self.rows) if r.fact in self.active and self.phase[i] in (-1, phase)]
            laid_out = self.continuations.lay_out(rows, max_tokens=self.max_tokens)
            self.laid_out[phase] = [self._part(part, run) for part, run in laid_out]
        return self.laid_out[phase]

    def _part(self, rows: Sequence[int], run: Continuation) -> Part:
        tokens, shares, watched = [], list[float](), []
        for index, number in enumerate(rows):
            r = self.rows[number]
            if r.kind == "kl":
                watched.append((index, *run.place(index, len(r.row.ids) - 1)))
            for position, label in zip(r.row.positions, r.row.labels, strict=True):
                tokens.append((index, *run.place(index, position), label))
            shares += r.row.shares or [1.0 / len(r.row.labels) for _ in r.row.labels]
        turns = [1 if self.phase[number] < 0 else self.hparams.rotate for number in rows]
        indices = _Indices(
            rows=torch.tensor(rows),
            owners=torch.tensor([self.rows[number].fact for number in rows]),
            weight=torch.tensor([self.rows[number].weight * turn for number, turn in zip(rows, turns, strict=True)]),
            turns=torch.tensor(turns),
            nll=(*(torch.tensor([t[i] for t in tokens], dtype=torch.long) for i in range(4)), torch.tensor(shares)),  # type: ignore[arg-type]
            kl=tuple(torch.tensor([w[i] for w in watched], dtype=torch.long) for i in range(3)),  # type: ignore[arg-type]
        )
        return Part(run, rows, [rows[index] for index, _, _ in watched], indices)

    def step(self, *, last: bool) -> None:
        """One evaluation of every searched fact's loss; then an update, unless it was the last or the fact is done."""
        losses, asked, hit = self._evaluate(last=last)
        done = []
        for fact in sorted(self.active):
            self.steps[fact] += 1
            self.losses[fact] = losses[fact]
            if losses[fact] != losses[fact]:
                raise EngineError(
                    f"the loss of fact {fact + 1} ({self.facts[fact].prompt!r}) is not a number",
                    hint="Lower v_lr, or use a wider dtype than the model's.",
                )
            if last or self._stops(fact, losses[fact], asked[fact], hit):
                done.append(fact)
        with torch.no_grad():
            for fact in done:
                self.found[fact] = self.delta[fact]
        self.active.difference_update(done)
        self.reached |= hit
        self.taken += 1
        if not self.active:
            return
        self.optimizer.step()
        with torch.no_grad():
            longest = self.hparams.clamp_norm_factor * self.h.norm(dim=1)
            norms = self.delta.norm(dim=1)
            self.delta *= torch.where(norms > longest, longest / norms, 1.0)[:, None]
        if len(self.active) <= _COMPACT_BELOW * self.laid_out_facts:
            self.laid_out = {}  # before the next evaluation, which is ready for a lack of memory
            self.laid_out_facts = len(self.active)

    def _stops(self, fact: int, loss: float, nll: float, hit: set[int]) -> bool:
        if self.hparams.early_stop == "loss":  # a loss to which each row has had its turn to add
            return self.taken + 1 >= self.hparams.rotate and loss < self.hparams.early_stop_loss
        if self.hparams.early_stop == "nll":
            return nll < self.hparams.early_stop_loss
        # one step after the target was the argmax in every template, and still is
        return fact in self.reached and fact in hit

    def _evaluate(self, *, last: bool) -> tuple[list[float], list[float], set[int]]:
        def evaluated(max_tokens: int) -> tuple[list[float], list[float], set[int]]:
            self.optimizer.zero_grad(set_to_none=True)
            if max_tokens != self.max_tokens:
                self.max_tokens, self.laid_out = max_tokens, {}
            with torch.set_grad_enabled(not last):  # whatever the caller's mode: scripts edit under torch.no_grad()
                return self._forward_backward(last=last)

        return halving(self.max_tokens, evaluated)

    def _forward_backward(self, *, last: bool) -> tuple[list[float], list[float], set[int]]:
        """Each fact's loss, the mean NLL of its targets, and the facts whose targets are the argmax everywhere;
        gradients if an update follows.

        A row that does not take part in this step counts with what it last was.
        """
        for part in self._parts(self.taken % self.hparams.rotate):
            loss = self._part_loss(part)
            if not last:
                loss.backward()  # type: ignore[no-untyped-call]
        decay = self._decay()
        if decay.requires_grad and not last:
            decay.sum().backward()  # type: ignore[no-untyped-call]
        # the one place of a step where the host waits for a GPU
        told = torch.cat([decay.detach(), self.value, self.nll, self.wrong]).cpu()
        decayed, value, nll, wrong = torch.split(told, [len(self.facts)] + 3 * [len(self.rows)])
        total = decayed.index_add(0, self.owner, value)
        missed = torch.zeros(len(self.facts)).index_add(0, self.owner, wrong * self.asks).tolist()
        asked = torch.zeros(len(self.facts)).index_add(0, self.owner, torch.where(self.asks, nll, 0.0)) / self.asked
        return total.tolist(), asked.tolist(), {fact for fact in self.active if not missed[fact]}

    def _decay(self) -> Tensor:
        """Of each fact, the part of its loss that keeps δ short."""
        decay: Tensor = self.hparams.v_weight_decay * self.delta.norm(dim=1) / self.h.norm(dim=1) ** 2
        return decay

    def _part_loss(self, part: Part) -> Tensor:
        """The part's loss with a graph; each row's own goes into `value`, `nll` and `wrong`."""
        here = part.on(self.device)
        if self.taken and not self.reference.keys() >= set(part.watched):
            with torch.no_grad():  # rows whose first turn it is: what they say without δ
                _, hidden = self._run(part, changed=False)
                self._refer(part, self._log_p(part, hidden))
        loss_hidden, last_hidden = self._run(part, changed=True)
        if not self.taken:
            self._remember(part)
        each = torch.zeros(len(part.rows), device=self.device)
        wrong = torch.zeros_like(each)
        if len(here.nll[0]):
            _, lines, columns, _, _ = part.on(loss_hidden.device).nll
            logits = self.adapter.head(loss_hidden[lines, columns])
            _, _, _, labels, shares = part.on(logits.device).nll
            nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none") * shares
            each = each.index_add(0, here.nll[0], nll.to(self.device))
            misses = logits.detach().argmax(-1) != labels
            wrong = wrong.index_add(0, here.nll[0], misses.to(wrong))
            self.nll[here.rows] = each.detach()
        if part.watched:
            log_p = self._log_p(part, last_hidden)
            if not self.taken:
                self._refer(part, log_p.detach())
            first = torch.stack([self.reference[number] for number in part.watched])
            kl = (log_p.exp() * (log_p - first)).sum(-1)
            each = each.index_add(0, here.kl[0], kl.to(self.device))
        weighted = each * here.weight
        self.value[here.rows] = weighted.detach() / here.turns
        self.wrong[here.rows] = wrong
        return weighted.sum()

    def _run(self, part: Part, *, changed: bool) -> tuple[Tensor, Tensor]:
        """What is read of a part's rows, with what is searched for or without it."""
        owners = part.on(self.device).owners
        delta = self.delta[owners] if changed else torch.zeros_like(self.h[owners])
        return part.continuation.run(delta, loss_block=self.hparams.v_loss_layer)

    def _log_p(self, part: Part, hidden: Tensor) -> Tensor:
        _, lines, columns = part.on(hidden.device).kl
        log_p: Tensor = self.adapter.head(hidden[lines, columns]).log_softmax(-1)
        return log_p

    def _refer(self, part: Part, log_p: Tensor) -> None:
        for number, each in zip(part.watched, log_p, strict=True):
            self.reference.setdefault(number, each)

    def _remember(self, part: Part) -> None:
        """h: the hidden state of each fact's first row."""
        for index, number in enumerate(part.rows):
            fact = self.rows[number].fact
            if number == self.first[fact]:
                self.h[fact] = part.continuation.start[index].to(self.device)

    def result(self) -> Targets:
        return Targets((self.h + self.found).detach(), tuple(self.steps), tuple(self.losses))
