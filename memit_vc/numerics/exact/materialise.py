"""The one definition of a materialised weight, which every command goes through.

    W(S) = cast(float64(W_base) + D),   D = Σ left @ right over the live columns

D is exact: every product is a multiple of the quantum and the sum of their magnitudes is below 2^53 of them, so no
order, BLAS or number of threads can change a bit of it. Then one rounded addition in float64, float64 → float32,
float32 → the storage dtype, each to nearest even. Where D is exactly 0 the base's bits stay, NaN payloads and −0.0
included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from memit_vc.errors import EngineError, IntegrityError, UnsupportedModelError
from memit_vc.numerics.exact.blockwise import block_map
from memit_vc.numerics.exact.factored import Dense, LowRank, Term, check_terms, stacked, summed
from memit_vc.numerics.exact.grid import Floats
from memit_vc.objects import EditableWeight

STORAGE_DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F64": torch.float64,
}
"""Storage dtypes that can be edited. F64 takes the rounded addition and no cast after it."""

_BITS = {
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float64: torch.int64,
}
_BLOCK = 1 << 18
"""Entries of one block, where that is rows enough."""
_ROWS = 256
"""Stored rows of one block at least: a product packs its right factor for each block, which fewer rows do not repay."""
_TILE = 1 << 17
"""Entries that are summed, added and cast together: 1 MB in float64, which stays in the processor's cache."""
_COPY = 1 << 22
"""Entries of a factor that are copied to float64 at once: 32 MB."""
_ALL = slice(None)


class Materialiser:
    """D of one weight, ready to be added block by block to the rows of the tensor as it is stored.

    Stored rows are rows of D for a Linear, columns of D for a Conv1D ([d_in, d_out]). The terms are checked once, here
    (unless they are `checked`), and moved to `device`: IntegrityError for shapes that do not fit or factors off the
    grid, EngineError if sums could round.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        weight: EditableWeight,
        *,
        checked: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.weight = weight
        if not checked:
            check_terms(terms, weight)
        low_rank = [term for term in terms if isinstance(term, LowRank) and term.rank]
        self._dense = [tensor_of(term.delta).to(device) for term in terms if isinstance(term, Dense)]
        self._left, self._right = (factor.to(device) for factor in _concatenated(low_rank, weight))

    @property
    def is_zero(self) -> bool:
        """No term at all: the weight is the base's."""
        return not self._right.shape[0] and not self._dense

    def stored_delta(self, rows: slice, columns: slice = _ALL) -> Tensor:
        """D for a part of the tensor as stored, float64, in the stored orientation."""
        left, right, dense = self._part(rows, columns)
        # factors are copied piece by piece; sums are exact, so their order is free
        (_, first), *others = self._pieces(right)
        total = left[:, :first].double() @ right[:first].double()
        for start, stop in others:
            total += left[:, start:stop].double() @ right[start:stop].double()
        for update in dense:
            total += update
        return total

    def accumulate(self, total: Tensor, rows: slice) -> None:
        """Add D of these stored rows to `total`, float64, of the same shape, in place."""
        left, right, dense = self._part(rows, _ALL)
        for first, last in self._pieces(right):
            # exact, so it does not matter that the product is summed onto what is there
            total.addmm_(left[:, first:last].double(), right[first:last].double())
        for update in dense:
            total += update

    def _part(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The factors, and the dense updates, of a part of the tensor as stored."""
        if self.weight.orientation == "out_in":
            return self._left[rows], self._right[:, columns], [dense[rows, columns] for dense in self._dense]
        dense = [dense[columns, rows].T for dense in self._dense]
        return self._right[:, rows].T, self._left[columns].T, dense

    def apply(self, base: Tensor, start: int, *, in_place: bool = False) -> Tensor:
        """The materialised rows for `base`, the stored rows from `start` on; as `add_delta`."""
        rows = slice(start, start + base.shape[0])
        return add_delta(base, lambda columns: self.stored_delta(rows, columns), self.weight, in_place=in_place)

    def blocks(self) -> Iterator[slice]:
        """The stored rows, cut so that one block takes a few megabytes."""
        rows, columns = stored_shape(self.weight)
        step = block_step(columns)
        return (slice(start, min(start + step, rows)) for start in range(0, rows, step))

    @staticmethod
    def _pieces(right: Tensor) -> list[tuple[int, int]]:
        """Columns of D's factors that are copied to float64 at once; one piece at least."""
        count, step = right.shape[0], max(1, _COPY // max(1, right.shape[1]))
        return [(start, min(start + step, count)) for start in range(0, max(count, 1), step)]


def add_delta(
    base: Tensor, delta: Callable[[slice], Tensor], weight: EditableWeight, *, in_place: bool = False
) -> Tensor:
    """cast(float64(base) + D) for some stored rows of a weight; same shape and dtype, a new tensor.

    `delta(columns)` gives D of these rows and those columns, float64, and leaves it to be overwritten. `in_place`
    writes into `base` itself, for fresh memory costs as much as a cast. EngineError if a finite entry
    overflows the storage dtype.
    """
    # D = 0 changes the bits of NaNs and of −0.0 only: without these, it does not matter where D is 0
    careful = not _is_plain(base)
    result = base if in_place else torch.empty_like(base, memory_format=torch.contiguous_format)
    if careful and in_place:
        base = base.clone()
    step = max(1, _TILE // max(1, base.shape[0]))
    single = torch.empty(base.shape[0] * min(step, base.shape[1]), dtype=torch.float32, device=base.device)
    for start in range(0, base.shape[1], step):
        columns = slice(start, start + step)
        before, total = base[:, columns], delta(columns)
        untouched = total == 0 if careful else None
        after = result[:, columns]
        total.add_(before)
        # float64 → float32 → the storage dtype, each to nearest even
        after.copy_(total if base.dtype == torch.float64 else single[: total.numel()].view(total.shape).copy_(total))
        if untouched is not None:
            # through the integer view: a float copy may quieten a NaN
            bits = _BITS[base.dtype]
            after.view(bits).copy_(torch.where(untouched, before.view(bits), after.view(bits)))
    if base.numel() and not _is_finite(result) and (not careful or bool((base.isfinite() & ~result.isfinite()).any())):
        raise EngineError(
            f"{weight.name}: the edited weight overflows {weight.dtype}",
            hint="Revert some edits, or use a checkpoint in a dtype with a larger range.",
        )
    return result


def block_step(columns: int) -> int:
    """Stored rows of one block of a tensor with so many stored columns."""
    return max(_ROWS, _BLOCK // max(1, columns))


def stored_shape(weight: EditableWeight) -> tuple[int, int]:
    """Shape of the tensor as stored: [d_out, d_in] of a Linear, [d_in, d_out] of a Conv1D."""
    return (weight.d_out, weight.d_in) if weight.orientation == "out_in" else (weight.d_in, weight.d_out)


def delta(terms: Sequence[Term], weight: EditableWeight) -> Tensor:
    """D of a weight, float64 [d_out, d_in] in y = W x orientation, exact. Errors as for `check_terms`."""
    return tensor_of(summed(terms, weight))


def materialise(
    base: Tensor, terms: Sequence[Term], weight: EditableWeight, *, device: torch.device | None = None
) -> Tensor:
    """The edited weight: shape, dtype and orientation of `base`, the tensor as stored; a new tensor on the CPU.

    It is computed on `device`, the CPU unless given; `materialise_near.py` says where it may be. Memory beyond base and
    result is a few blocks. Errors as for `delta`; UnsupportedModelError for a storage dtype other than F32, BF16, F16
    and F64; EngineError if the result overflows it.
    """
    update = Materialiser(terms, weight, device=device)
    _check_base(base, weight)
    base = base.detach().cpu()
    result = base.clone(memory_format=torch.contiguous_format)
    if not update.is_zero:
        blocks = list(update.blocks())
        edited = block_map(lambda rows: update.apply(base[rows].to(device), rows.start), blocks)
        for rows, block in zip(blocks, edited, strict=True):
            result[rows] = block
    return result


def state_weight(base: Tensor, terms: Sequence[Term], weight: EditableWeight, dtype: torch.dtype) -> Tensor:
    """The weight of a state in `dtype`: shape and orientation of `base`, the tensor as stored; on the CPU.

    In the storage dtype it is `materialise`, bit for bit what `checkout` writes. In another one the sum float64(W) + D
    is rounded to float32 and then to `dtype`, never to the storage dtype between: a float32 copy of a bfloat16 model
    holds the whole edit. Errors as for `materialise`, and EngineError if `dtype` is too narrow.
    """
    if dtype == base.dtype:
        return materialise(base, terms, weight)
    # every storage dtype's values are values of the working one, so the one rounded addition is the same
    working = torch.float64 if torch.float64 in (base.dtype, dtype) else torch.float32
    return convert(materialise(base.to(working), terms, weight), dtype, weight.name)


def convert(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """A cast to nearest even. EngineError if a finite value overflows."""
    made = tensor.to(dtype)
    if bool((torch.isfinite(tensor) & ~torch.isfinite(made)).any()):
        raise EngineError(
            f"{name}: holds {float(tensor[torch.isfinite(tensor)].abs().max()):.3g}, more than {dtype} can",
            hint="Choose bfloat16 or float32.",
        )
    return made


def survived(base: Tensor, terms: Sequence[Term], weight: EditableWeight, *, before: Sequence[Term] = ()) -> float:
    """The share of the intended delta that is left after the cast: ⟨W′ − W, D⟩ / ⟨D, D⟩.

    W′ holds `before` and `terms`, W holds `before` alone, D is that of `terms`. 1 means all of it, 0 that the edit
    drowned in the storage dtype's rounding. The projection is used because rounding noise, which is not the edit, would
    count in a norm. 1 for an edit that intends nothing.
    """
    intended, old = Materialiser(terms, weight), Materialiser(before, weight)
    new = Materialiser([*before, *terms], weight)
    _check_base(base, weight)
    base = base.detach().cpu()

    def products(rows: slice) -> tuple[float, float]:
        wanted = intended.stored_delta(rows)
        achieved = new.apply(base[rows], rows.start).double() - old.apply(base[rows], rows.start).double()
        return float((achieved * wanted).nansum()), float((wanted * wanted).sum())

    pairs = list(block_map(products, new.blocks()))
    whole = sum(square for _, square in pairs)
    return sum(along for along, _ in pairs) / whole if whole else 1.0


def _is_plain(base: Tensor) -> bool:
    """Whether no entry is NaN, infinite or −0.0, the smallest of all integers in the integer view."""
    if not base.numel():
        return True
    bits = _BITS[base.dtype]
    return _is_finite(base) and int(base.contiguous().view(bits).amin()) != torch.iinfo(bits).min


def _is_finite(tensor: Tensor) -> bool:
    return all(math.isfinite(float(extreme)) for extreme in tensor.aminmax())


def tensor_of(array: Floats) -> Tensor:
    """The same numbers in the same memory; copied only where torch could not use it."""
    return torch.from_numpy(np.require(array, requirements=["A", "W"]))


def _concatenated(terms: Sequence[LowRank], weight: EditableWeight) -> tuple[Tensor, Tensor]:
    """All columns as one pair of factors, in float64 already where that is small."""
    joined = stacked(terms, weight.d_out, weight.d_in)
    left, right = tensor_of(joined.left), tensor_of(joined.right)
    small = max(left.numel(), right.numel()) <= _COPY
    # the right one column by column: a product of some columns then reads one piece of memory
    return (left.double(), right.T.contiguous().double().T) if small else (left, right)


def _check_base(base: Tensor, weight: EditableWeight) -> None:
    if base.dtype not in _BITS:
        raise UnsupportedModelError(
            f"{weight.name}: weights of {base.dtype} cannot be edited exactly",
            hint="Edit the checkpoint in float32, bfloat16 or float16; export an adapter for the quantised one.",
        )
    if tuple(base.shape) != stored_shape(weight):
        raise IntegrityError(
            f"{weight.name}: the base tensor is {list(base.shape)}, the history says {list(stored_shape(weight))}",
            hint="Restore the files of the base that `init` recorded, or start a new repository.",
        )
