"""R itself, searched for through the weights that it makes: no z, and one change in every edited layer.

z is one vector behind the last edited layer, and the insertion reaches it only in part: the ridge lets through a share,
and in another wording the subject has another key. Here Adam moves a fact's columns of R, one per edited layer, while
the model runs with W + R (A⁻¹K)ᵀ. What the search sees is what the weights will do. Keys and right factors are those of
the state that is edited, so an update has the same form as after the insertion, and all that is said of columns holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.forward.replay import watching
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.search.continuation import Continuation, Whole
from memit_vc.numerics.search.rehearsal import Rehearsal
from memit_vc.numerics.search.targets import Part, Search, Targets, search_through
from memit_vc.objects import Fact


def find_residuals(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    *,
    adjusted: Mapping[int, Tensor],
    hparams: MEMITHyperParams,
    templates: Sequence[Template],
    anchors: Sequence[Template] | None = None,
    earlier: Sequence[Fact] = (),
    max_tokens: int = 1024,
    plain: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Targets:
    """Search the residuals of every fact; the model, which holds the weights before the edit, is only read.

    `adjusted[layer]` A⁻¹K [d_in, n] of these facts, for each of `hparams.layers`; `earlier` are the facts to keep
    (`rehearsal.py`). The z of the result are [n, layers · d_model] float32: of each fact, its columns of R, layer after
    layer. All else as for `find_targets`.
    """

    def begin() -> Search:
        return _Residuals(adapter, facts, adjusted, hparams, templates, max_tokens, plain, anchors, earlier)

    return search_through(adapter, begin, on_step)


def columns_of(residuals: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """R [d_model, n] float64 of each layer, from what `find_residuals` found, [n, layers · d_model]."""
    return dict(zip(layers, (part.T.double() for part in residuals.chunk(len(layers), dim=1)), strict=True))


class _Residuals(Search):
    """The search's rows, loss, steps and stopping rule. `delta` [n, layers · d_model] are the columns of R."""

    def __init__(
        self,
        adapter: ModelAdapter,
        facts: Sequence[Fact],
        adjusted: Mapping[int, Tensor],
        hparams: MEMITHyperParams,
        templates: Sequence[Template],
        max_tokens: int,
        plain: bool,
        anchors: Sequence[Template] | None,
        earlier: Sequence[Fact] = (),
    ) -> None:
        first = hparams.layers[0]
        # what is cached and what is run again part below the first edited block; below block 0 there is nothing
        below, plain = max(0, first - 1), plain or not first
        super().__init__(adapter, facts, below, hparams, templates, max_tokens, plain, anchors, through=not first)
        wide = (len(facts), len(hparams.layers) * adapter.hidden_size)
        self.delta = torch.zeros(wide, device=self.device, requires_grad=True)
        self.found = torch.zeros_like(self.delta)
        # the mean of a rate that goes down to 0; a step moves all layers at once, and their changes add up
        self.rate = 2 * hparams.v_lr / len(hparams.layers)
        self.optimizer = torch.optim.AdamW([self.delta], lr=self.rate, weight_decay=hparams.weight_decay)
        self.adjusted = {
            layer: adjusted[layer].float().to(next(adapter.projection(layer).parameters()).device)
            for layer in hparams.layers
        }
        self.rehearsal = Rehearsal(
            adapter,
            earlier,
            weight=hparams.rehearse,
            searched=facts,
            steps=hparams.v_num_grad_steps,
            layer=below,
            plain=plain,
            through=not first,
        )

    def step(self, *, last: bool) -> None:
        """As in the search for z. The last steps are the shortest, and the columns of a fact that is done stay."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * (1 - self.taken / self.hparams.v_num_grad_steps)
        super().step(last=last)
        done = sorted(set(range(len(self.facts))) - self.active)
        with torch.no_grad():
            self.delta[done] = self.found[done]

    def _decay(self) -> Tensor:
        return torch.zeros(len(self.facts), device=self.device)  # AdamW's own keeps the columns short

    def result(self) -> Targets:
        return Targets(self.found.detach(), tuple(self.steps), tuple(self.losses))

    def _forward_backward(self, *, last: bool) -> tuple[list[float], list[float], set[int]]:
        told = super()._forward_backward(last=last)
        if not last:
            for loss in self.rehearsal.losses(self.taken, self.max_tokens, self._run_rows):
                loss.backward()  # type: ignore[no-untyped-call]
        return told

    def _run(self, part: Part, *, changed: bool) -> tuple[Tensor, Tensor]:
        if not changed:
            return super()._run(part, changed=False)
        with self._changing(part.continuation):
            return super()._run(part, changed=False)

    def _run_rows(self, continuation: Continuation, rows: int, changed: bool) -> Tensor:
        nothing = self.h.new_zeros(rows, self.adapter.hidden_size)
        with self._changing(continuation) if changed else nullcontext():
            return continuation.run(nothing, loss_block=self.hparams.v_loss_layer)[0]

    @contextmanager
    def _changing(self, continuation: Continuation) -> Iterator[None]:
        """What runs in this block runs with W + R (A⁻¹K)ᵀ."""
        inputs: dict[int, Tensor] = {}
        columns = dict(zip(self.hparams.layers, self.delta.chunk(len(self.hparams.layers), dim=1), strict=True))

        def on_call(layer: int, args: tuple[Any, ...], _: dict[str, Any]) -> None:
            inputs[layer] = args[0]

        def on_output(layer: int, output: Tensor) -> Tensor:
            keys = inputs.pop(layer).float()
            added = keys @ self.adjusted[layer] @ columns[layer].to(keys.device)
            if isinstance(continuation, Whole):  # as on the short path, which takes what is before from a cache
                behind = continuation.behind.to(added.device).reshape(*added.shape[:-1], 1)
                added = torch.where(behind, added, 0.0)
            return output + added.to(output.dtype)

        with watching({layer: self.adapter.projection(layer) for layer in self.adjusted}, on_call, on_output):
            yield
