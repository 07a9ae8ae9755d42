"""Outputs of a search's forward where a test wants them, however the rows were put together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memit_vc.numerics.forward.tokens import TokenRow
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.search.continuation import Continuations


def outputs(
    adapter: ModelAdapter,
    rows: Sequence[TokenRow],
    delta: Tensor,
    *,
    layer: int,
    loss_block: int,
    plain: bool = False,
    max_tokens: int = 4096,
    times: int = 1,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Hidden states at the pivots [rows, d_model], and for each row those of its tokens from the pivot on at the output
    of `loss_block` and of the last block, each [tokens, d_model]. `times`: the forward is run so often.
    """
    starts: dict[int, Tensor] = {}
    loss: dict[int, Tensor] = {}
    last: dict[int, Tensor] = {}
    laid_out = Continuations(adapter, rows, layer=layer, plain=plain).lay_out(range(len(rows)), max_tokens=max_tokens)
    for part, run in laid_out:
        for _ in range(times):
            found = run.run(delta[part], loss_block=loss_block)
        for index, row in enumerate(part):
            starts[row] = run.start[index]
            places = [run.place(index, position) for position in range(rows[row].pivot, len(rows[row].ids))]
            lines, columns = torch.tensor(places).T
            loss[row], last[row] = (each[lines, columns] for each in found)
    order = range(len(rows))
    return torch.stack([starts[i] for i in order]), [loss[i] for i in order], [last[i] for i in order]
