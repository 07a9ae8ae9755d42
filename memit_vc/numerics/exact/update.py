"""A weight's whole update, block by block, however many columns it has.

Few columns are held in memory and multiplied where they are needed. Of many, only some are read at a time: D is then
summed for a slab of rows over all of them, and for the next slab they are read again. Sums are exact, so it is the
same D.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from memit_vc.numerics.exact.blockwise import block_map
from memit_vc.numerics.exact.factored import Term, term_bound
from memit_vc.numerics.exact.materialise import Materialiser, add_delta, block_step, stored_shape
from memit_vc.numerics.exact.patchfile import read_pieces
from memit_vc.objects import EditableWeight, PatchId
from memit_vc.vcs.exact import check_bound

_HELD = 1 << 22
"""Float32 entries of terms that are held: 16 MB, and as much again while they are joined."""
_SLAB = 1 << 23
"""Float64 entries of D that are summed at once: 64 MB."""

Edit: TypeAlias = Callable[[Tensor], Tensor]
"""Makes the state's rows of the base's, in place; to be called once."""


@dataclass(frozen=True)
class StateTerms:
    """The terms of a state for one weight, read from its patches again by each iteration, some columns at a time.

    `selection` maps each patch to its live columns, () meaning all of it, as for `state_terms`.
    """

    read: Callable[[PatchId], Path]
    selection: Collection[tuple[PatchId, tuple[int, ...]]]
    weight: str

    def __iter__(self) -> Iterator[Term]:
        for patch, positions in sorted(self.selection):
            yield from read_pieces(self.read(patch), positions, self.weight)


class Update:
    """The terms of one weight, looked at once: `terms` is iterated again for each slab where they are many.

    IntegrityError for terms that do not fit the weight or are off its grid, EngineError if sums could round.
    """

    def __init__(self, terms: Iterable[Term], weight: EditableWeight) -> None:
        self._terms, self._weight = terms, weight
        held: list[Term] | None = []
        bound, size = 0.0, 0
        for term in terms:
            bound += term_bound(term, weight)
            size += sum(array.size for array in term.arrays.values())
            if size > _HELD:
                held = None
            if held is not None:
                held.append(term)
            del term  # or it is still there while the next one is read
        check_bound({weight.name: bound})
        self._held = None if held is None else Materialiser(held, weight, checked=True)

    @property
    def is_zero(self) -> bool:
        """No term at all: the weight is the base's."""
        return self._held is not None and self._held.is_zero

    def blocks(self) -> Iterator[tuple[slice, Edit]]:
        """The stored rows in order, each block with what makes the state's of the base's."""
        if self._held is not None:
            for rows in self._held.blocks():
                yield rows, partial(self._held.apply, start=rows.start, in_place=True)
            return
        count, columns = stored_shape(self._weight)
        step = block_step(columns)
        height = max(1, _SLAB // (step * columns)) * step
        for start in range(0, count, height):
            yield from self._slab_blocks(start, min(start + height, count), step)

    def _slab_blocks(self, start: int, stop: int, step: int) -> Iterator[tuple[slice, Edit]]:
        slab = torch.zeros(stop - start, stored_shape(self._weight)[1], dtype=torch.float64)
        blocks = [slice(first, min(first + step, stop)) for first in range(start, stop, step)]
        for term in self._terms:
            update = Materialiser([term], self._weight, checked=True)
            del term
            for _ in block_map(partial(_accumulate, slab, start, update), blocks):
                pass
            del update
        for rows in blocks:
            yield rows, partial(_add, slab[rows.start - start : rows.stop - start], self._weight)


def _accumulate(slab: Tensor, start: int, update: Materialiser, rows: slice) -> None:
    """Add some rows of an update to a slab that begins at row `start`."""
    update.accumulate(slab[rows.start - start : rows.stop - start], rows)


def _add(delta: Tensor, weight: EditableWeight, base: Tensor) -> Tensor:
    return add_delta(base, lambda columns: delta[:, columns], weight, in_place=True)
