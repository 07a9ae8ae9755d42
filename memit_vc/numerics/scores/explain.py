"""Why a fact took or failed: figures of the solve and of the edited model, measured, not guessed.

`leverage` is kᵀA⁻¹k, the share of the asked residual that a fact's own column adds at its own key; the ridge λC and
the keys of other facts take the rest. `left` is ‖z − h‖ after the edit against before, h the output of the last edited
block at the fact's anchor (`sinks.py`). `agreement` is k̄ᵀA⁻¹k′ / k̄ᵀA⁻¹k̄ with k′ the key in a paraphrase: the share of
the column's effect that reaches the paraphrase.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from memit_vc.numerics.edit.engine import Edit
from memit_vc.numerics.edit.keys import Frontier
from memit_vc.numerics.forward.sinks import PLAIN
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.scores.likelihood import continuations
from memit_vc.objects import Fact, FactId, JsonValue


def unanswered(adapter: ModelAdapter, facts: Sequence[Fact]) -> list[int]:
    """Numbers of the facts whose target is not the argmax at their prompt, with the weights as they stand."""
    found = continuations(adapter, [(fact.prompt, fact.target) for fact in facts])
    return [number for number, each in enumerate(found) if not each.argmax]


def outputs(adapter: ModelAdapter, facts: Sequence[Fact], layer: int, within: Sequence[Template]) -> Tensor:
    """h [d_model, n] float64 of block `layer` at the prompts in their anchors, with the weights as they stand."""
    return Frontier(adapter, facts, layers=[layer], templates=[], anchors=within).current(layer).double()


def explained(
    adapter: ModelAdapter,
    facts: Sequence[Fact],
    edit: Edit,
    *,
    layers: Sequence[int],
    start: Tensor,
    within: Sequence[Template],
) -> Mapping[FactId, JsonValue]:
    """{"leverage": {layer: …}, "left": … or None, "agreement": {layer: …} or None, "loss": …} of each fact.

    `left` is None after a search for residuals, which asks for no z. A fact that has another anchor than the plain
    prompt also has "sink": True.
    `adapter` must hold the edited weights; `start` are the `outputs` of before the edit, `within` the facts' anchors.
    """
    left: list[float | None] = [None] * len(facts)
    if not edit.through:
        z = edit.targets.z.double().T
        still, asked = ((z - h).norm(dim=0) for h in (outputs(adapter, facts, layers[-1], within), start))
        left = torch.where(asked > 0, still / asked, 0.0).tolist()
    agreement = _agreement(adapter, facts, edit, layers)
    return {
        fact.id: {
            "leverage": {str(layer): float(edit.updates[layer].leverage[i]) for layer in layers},
            "left": left[i],
            "agreement": agreement.get(i),
            "loss": edit.targets.loss[i],
            **({"sink": True} if within[i] != PLAIN else {}),
        }
        for i, fact in enumerate(facts)
    }


def _agreement(
    adapter: ModelAdapter, facts: Sequence[Fact], edit: Edit, layers: Sequence[int]
) -> dict[int, dict[str, JsonValue]]:
    """By number of fact; a fact without a paraphrase that has its subject is left out."""
    owners, asked = [], []
    for number, fact in enumerate(facts):
        for text in (*fact.paraphrases, *fact.clean_paraphrases):
            if fact.subject in text:
                owners.append(number)
                asked.append(Fact(prompt=text, subject=fact.subject, target=fact.target))
    if not asked:
        return {}
    frontier = Frontier(adapter, asked, layers=layers, templates=[[Template("")]])
    counts = torch.bincount(torch.tensor(owners), minlength=len(facts)).double()
    found: dict[int, dict[str, JsonValue]] = {}
    for layer in layers:
        keys, update = frontier.keys(layer).double(), edit.updates[layer]
        each = (keys * update.adjusted[:, owners]).sum(0) / update.leverage[owners]
        means = torch.zeros(len(facts), dtype=torch.float64).index_add(0, torch.tensor(owners), each) / counts
        for number in set(owners):
            found.setdefault(number, {})[str(layer)] = float(means[number])
    return found
