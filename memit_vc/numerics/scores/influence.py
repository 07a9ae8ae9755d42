"""How far each term of D moves the output of an edited weight at one key: ‖Δ_i k‖."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from memit_vc.errors import EngineError
from memit_vc.numerics.edit.keys import Frontier
from memit_vc.numerics.exact.factored import Dense, Term
from memit_vc.numerics.exact.grid import Floats
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.objects import Fact


def keys_at(adapter: ModelAdapter, prompt: str, subject: str | None, layers: Sequence[int]) -> dict[int, Tensor]:
    """k [d_in] float64 of each layer at the subject's last token (None: the prompt's), with the weights as they stand.

    EngineError if the subject does not occur in the prompt.
    """
    asked = Fact(prompt=prompt, subject=prompt if subject is None else subject, target="")
    try:
        frontier = Frontier(adapter, [asked], layers=sorted(layers), templates=[[Template("")]])
    except ValueError as error:
        raise EngineError(str(error), hint="Write the subject as the prompt does.") from error
    return {layer: frontier.keys(layer)[:, 0].double().cpu() for layer in sorted(layers)}


def output_norm(adapter: ModelAdapter, layer: int, key: Tensor) -> float:
    """‖W k‖ with the weight as it stands, for `key` [d_in] float64."""
    return float((adapter.weight(layer).detach().cpu().double().flatten(1) @ key).norm())


def shift_norms(terms: Sequence[tuple[Term, Sequence[int], Tensor]], groups: int) -> list[float]:
    """‖Σ Δ_j k‖ of each group.

    `terms` are updates with the group of each of their columns (one for all of a dense or joint update), −1 counting
    nowhere, and the weight's key k [d_in] float64.
    """
    total: dict[int, Floats] = {}
    for term, labels, key in terms:
        k: Floats = key.numpy()
        if isinstance(term, Dense):
            shifts = (term.matrix() @ k)[:, None]
        else:
            shifts = term.left * (term.right.astype(np.float64) @ k)
            if len(labels) == 1:  # a patch that cannot be split is one entry, whatever its rank
                shifts = shifts.sum(axis=1, keepdims=True)
        for index, group in enumerate(labels):
            if group >= 0:
                total[group] = total.get(group, 0.0) + shifts[:, index]
    return [float(np.linalg.norm(total[group])) if group in total else 0.0 for group in range(groups)]
