"""The last steps of an edit: the residuals, trained through the weights that they make.

z is one vector behind the last edited layer, and the insertion comes only near it: at a key that differs from the
fact's own, in another wording, less arrives. So after the insertion the same rows are asked once more, of the edited
model, and Adam moves the residuals R of all layers. The right factors A⁻¹K stay, so an update is still R (A⁻¹K)ᵀ with
one column per fact, and all that is said of columns holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from memit_vc.errors import EngineError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.forward.replay import evaluating, watching
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.masters import frozen
from memit_vc.numerics.search.continuation import Whole
from memit_vc.numerics.search.targets import Part, Search
from memit_vc.objects import Fact

KEEP = 2.0
"""How much more the other questions about the subject weigh here than in the search (docs/quality.md)."""


def trained_residuals(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    residuals: Mapping[int, Tensor],
    adjusted: Mapping[int, Tensor],
    *,
    chunks: Sequence[Sequence[int]],
    hparams: MEMITHyperParams,
    templates: Sequence[Template],
    anchors: Sequence[Template] | None = None,
    max_tokens: int = 1024,
    on_step: Callable[[int], None] | None = None,
) -> dict[int, Tensor]:
    """R [d_out, n] float64 of each layer after `hparams.refine` steps for each of `chunks` (numbers of facts).

    `adjusted` A⁻¹K [d_in, n]. The model holds the weights of before the edit and is only read. No column moves
    further than it was long. EngineError if a loss or a result is not finite. While the facts of one
    chunk are trained, the columns of all others stay as they are. `on_step` gets the steps done, times facts.
    """
    found = {layer: residual.clone() for layer, residual in residuals.items()}
    done = 0
    for chunk in chunks:
        own = None if anchors is None else [anchors[i] for i in chunk]
        with evaluating(adapter.model), frozen(adapter.model):
            training = _Training(adapter, [facts[i] for i in chunk], hparams, templates, max_tokens, own)
            training.begin(found, adjusted, chunk)
            for step in range(hparams.refine):
                training.train(step)
                if on_step is not None:
                    on_step(done + (step + 1) * len(chunk))
        done += hparams.refine * len(chunk)
        for layer, trained in training.columns.items():
            if not bool(trained.isfinite().all()):
                raise EngineError(
                    f"the training of the residuals of layer {layer} ended in values that are not finite",
                    hint="Lower v_lr, or set refine: 0.",
                )
            found[layer][:, list(chunk)] = trained.detach().cpu().double()
    return found


class _Training(Search):
    """The search's rows and loss, where the columns of some facts take the place of δ."""

    def __init__(
        self,
        adapter: ModelAdapter,
        facts: Sequence[Fact],
        hparams: MEMITHyperParams,
        templates: Sequence[Template],
        max_tokens: int,
        anchors: Sequence[Template] | None,
    ) -> None:
        first = hparams.layers[0]
        hparams = hparams.replace(keep_factor=KEEP * hparams.keep_factor)
        # what is cached and what is run again part below the first edited block; below block 0 there is nothing
        super().__init__(
            adapter, facts, max(0, first - 1), hparams, templates, max_tokens, not first, anchors, through=not first
        )
        self.delta.requires_grad_(False)
        self.taken = hparams.rotate  # no row is new to the first round: what each says without the edit is asked first

    def begin(self, residuals: Mapping[int, Tensor], adjusted: Mapping[int, Tensor], chunk: Sequence[int]) -> None:
        """Train the columns number `chunk` from where they are."""
        self.columns: dict[int, Tensor] = {}
        self.started: dict[int, Tensor] = {}
        self.adjusted: dict[int, Tensor] = {}
        self.others: dict[int, Tensor] = {}
        """What the other facts' columns add to each weight, [d_out, d_in]; empty if there are none."""
        rest = sorted(set(range(next(iter(residuals.values())).shape[1])).difference(chunk))
        for layer, residual in residuals.items():
            device = next(self.adapter.projection(layer).parameters()).device
            self.started[layer] = residual[:, list(chunk)].float().to(device)
            self.columns[layer] = self.started[layer].clone().requires_grad_()
            self.adjusted[layer] = adjusted[layer][:, list(chunk)].float().to(device)
            if rest:
                self.others[layer] = (residual[:, rest] @ adjusted[layer][:, rest].T).float().to(device)
        self.rate = self.hparams.v_lr / len(self.columns)
        self.optimizer = torch.optim.Adam(list(self.columns.values()), lr=self.rate)

    def train(self, step: int) -> None:
        """One step; the last ones are the shortest."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * (1 - step / self.hparams.refine)
        losses, _, _ = self._evaluate(last=False)
        for fact, loss in enumerate(losses):
            if loss != loss:
                raise EngineError(
                    f"the loss of fact {fact + 1} ({self.facts[fact].prompt!r}) is not a number",
                    hint="Lower v_lr, or use a wider dtype than the model's.",
                )
        self.optimizer.step()
        self._bound()
        self.taken += 1

    def _bound(self) -> None:
        """No column moves further than it was long: a step knows nothing of the scale of the model's hidden states."""
        with torch.no_grad():
            for layer, column in self.columns.items():
                moved = column - self.started[layer]
                far = self.started[layer].norm(dim=0) / moved.norm(dim=0)
                column.copy_(self.started[layer] + moved * far.clamp(max=1.0).nan_to_num(1.0))

    def _decay(self) -> Tensor:
        return torch.zeros(len(self.facts), device=self.device)

    def _run(self, part: Part, *, changed: bool) -> tuple[Tensor, Tensor]:
        if not changed:
            return super()._run(part, changed=False)
        inputs: dict[int, Tensor] = {}

        def on_call(layer: int, args: tuple[Any, ...], _: dict[str, Any]) -> None:
            inputs[layer] = args[0]

        def on_output(layer: int, output: Tensor) -> Tensor:
            keys = inputs.pop(layer).float()
            added = keys @ self.adjusted[layer] @ self.columns[layer].T
            if layer in self.others:
                added = added + keys @ self.others[layer].T
            if isinstance(part.continuation, Whole):  # as on the short path, which takes what is before from a cache
                behind = part.continuation.behind.to(added.device).reshape(*added.shape[:-1], 1)
                added = torch.where(behind, added, 0.0)
            return output + added.to(output.dtype)

        with watching({layer: self.adapter.projection(layer) for layer in self.columns}, on_call, on_output):
            return super()._run(part, changed=False)
