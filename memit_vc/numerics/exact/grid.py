"""Grid factors: the numbers on which float64 never rounds.

Every entry of a left column is an integer below 2^24 times 2^eL, every entry of the right row one times 2^eR, and
eL + eR is the quantum of the edited tensor, or more in a column that is too large for that. So every product is an
integer multiple of 2^quantum, and while the sum of their magnitudes stays below 2^53 of them, sums are exact in any
order, on any BLAS, with any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memit_vc.errors import EngineError

Floats: TypeAlias = "NDArray[np.floating[Any]]"

BITS = 24
"""Significant bits of float32: what one factor can hold."""
COLUMN_BITS = 2 * BITS
"""Bits of a product that two factors hold in steps of the grid."""
_MOST_BITS = 52
"""Bits of the largest product that a column may have: sums, which have 53, hold it even if both factors round up."""
_DEPTH = 44
_PIECE = 1 << 16
"""Entries looked at together, so that checking a large patch takes little memory."""
_NONE = 1 << 20
"""Exponent of the lowest bit of zeros: larger than any."""
_FRACTION = (1 << (BITS - 1)) - 1
"""Bits of a float32 that are written behind its exponent; the leading one of a normal number is not."""
_BITS_OF = {"F32": ("<u4", 0x7F80_0000), "BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00)}
"""Storage dtype -> the integer of an entry's size, and the bits of infinity."""
_EXPONENTS = range(-126, 128 - BITS + 1)
"""Steps 2^e of which every multiple below 2^24 is a normal float32: subnormals are lost where a CPU flushes them."""


def quantum(max_abs: float) -> int:
    """Exponent e of the grid of a tensor whose largest magnitude is `max_abs`: floor(log2 max|W|) − 44.

    An all-zero tensor has no scale of its own; it gets the grid of max|W| = 1, since weights are of that order.
    EngineError for a value that is not finite.
    """
    if not math.isfinite(max_abs):
        raise EngineError(f"the largest magnitude of the tensor is {max_abs}, not a finite number")
    return (_exponent(max_abs) - 1 if max_abs else 0) - _DEPTH


def quantum_of(chunks: Iterable[bytes], dtype: str, name: str = "tensor") -> int:
    """`quantum` of a tensor as a checkpoint stores it: pieces of whole entries; `dtype` is F32, BF16 or F16.

    Of two floats without sign the larger one has the larger bits, so no conversion is needed. EngineError names the
    tensor if it holds NaN or infinity.
    """
    kind, infinity = _BITS_OF[dtype]
    top, bad, entries = 0, 0, 0
    for chunk in chunks:
        bits = np.frombuffer(chunk, kind) & np.iinfo(kind).max >> 1
        top = max(top, int(bits.max(initial=0)))
        bad += int((bits >= infinity).sum())
        entries += bits.size
    if bad:
        raise EngineError(
            f"{name}: {bad} of {entries} entries are NaN or infinite, so it cannot be edited",
            hint="Fetch the checkpoint again or edit other layers: it is damaged, or overflowed when it was converted.",
        )
    widened = np.array([top << 16 if dtype == "BF16" else top], "<u2" if dtype == "F16" else "<u4")
    return quantum(float(widened.view("<f2" if dtype == "F16" else "<f4")[0]))


def snap(left: Floats, right: Floats, quantum: int, *, most_bits: int = _MOST_BITS) -> tuple[Floats, Floats]:
    """The nearest grid factors of `left` [d_out, n] and `right` [n, d_in] (float64), as float32 of the same shapes.

    Per column both factors keep about the same number of significant bits. A column below the grid becomes zero, which
    changes no weight by more than 2^quantum. A column that two factors cannot hold in steps of 2^quantum (more than
    `COLUMN_BITS`) takes larger ones. EngineError, with its numbers, for a column that no sum can hold: a product of
    more than 2^`most_bits` grid units (some 250 times max|W|), a value that is not finite or beyond float32.
    """
    tops = zip(_maxima(left, 0), _maxima(right, 1), strict=True)
    steps = np.array([_steps(i, *top, quantum, most_bits) for i, top in enumerate(tops)]).reshape(-1, 2)
    steps_left, steps_right = steps[:, 0], steps[:, 1, None]
    units_left, units_right = np.rint(left / steps_left), np.rint(right / steps_right)
    for index, (top_left, top_right) in enumerate(zip(_maxima(units_left, 0), _maxima(units_right, 1), strict=True)):
        if not top_left or not top_right:
            units_left[:, index], units_right[index] = 0.0, 0.0
    # + 0.0 turns −0.0 into 0.0: equal columns must have equal bytes, and so equal ids
    return (units_left * steps_left + 0.0).astype(np.float32), (units_right * steps_right + 0.0).astype(np.float32)


def snap_dense(delta: Floats, quantum: int) -> Floats:
    """`delta` (float64) rounded to multiples of 2^k grid units, as float32: the smallest k >= 0 at which all fit.

    EngineError for values that are not finite or out of float32's range.
    """
    largest = _largest(delta)
    if not math.isfinite(largest):
        raise EngineError(f"a dense update holds {largest}: the solve has failed", hint=_SOLVE_HINT)
    exponent = max(quantum, _exponent(largest) - BITS) if largest else quantum
    if largest and round(math.ldexp(largest, -exponent)) >= 2**BITS:
        exponent += 1
    if largest and exponent not in _EXPONENTS:
        raise EngineError(f"a dense update of at most {largest:.3g} needs steps of 2^{exponent}, outside float32")
    step = math.ldexp(1.0, exponent)
    return np.asarray(np.rint(delta / step) * step + 0.0, np.float32)


def column_bounds(left: Floats, right: Floats, quantum: int) -> tuple[float, ...]:
    """Per column max|left|·max|right| in grid units: no product of the column is larger. Exact for grid factors."""
    tops = zip(_maxima(left, 0), _maxima(right, 1), strict=True)
    return tuple(math.ldexp(top_left * top_right, -quantum) for top_left, top_right in tops)


def dense_bound(delta: Floats, quantum: int) -> float:
    """max|delta| in grid units."""
    return math.ldexp(_largest(delta), -quantum)


def break_even(d_out: int, d_in: int) -> float:
    """The number of columns above which a dense update is the smaller one."""
    return d_out * d_in / (d_out + d_in)


def low_rank_off_grid(left: Floats, right: Floats, quantum: int) -> list[int]:
    """Columns of float32 factors for which no pair of steps eL + eR >= quantum exists; [] if all are on the grid."""
    low_left, low_right = _lowest_bit(left, 0), _lowest_bit(right, 1)
    off = []
    for i, (top_left, top_right) in enumerate(zip(_maxima(left, 0), _maxima(right, 1), strict=True)):
        if not top_left or not top_right:
            continue
        # the largest steps are the best: they make the fewest of an entry, and the largest sum
        steps = [min(low_left[i], _EXPONENTS[-1]), min(low_right[i], _EXPONENTS[-1])]
        tight = any(_exponent(top) - BITS > step for top, step in zip((top_left, top_right), steps, strict=True))
        if tight or min(steps) < _EXPONENTS[0] or sum(steps) < quantum:
            off.append(i)
    return off


def dense_off_grid(delta: Floats, quantum: int) -> bool:
    """Whether some entry of a float32 update is not a multiple of 2^quantum, or they do not share one 24-bit step."""
    largest = _largest(delta)
    if not largest:
        return False
    low = min(_lowest_bit(delta, 1))
    return low < max(quantum, _EXPONENTS[0]) or _exponent(largest) - low > BITS


def _maxima(matrix: Floats, axis: int) -> list[float]:
    """The largest magnitude of each slice, NaN where it holds one."""
    tops = np.maximum(matrix.max(axis, initial=0.0), 0.0 - matrix.min(axis, initial=0.0))
    return [float(top) for top in tops]


def _largest(matrix: Floats) -> float:
    return float(np.maximum(matrix.max(initial=0.0), 0.0 - matrix.min(initial=0.0)))


def _exponent(value: float) -> int:
    """The smallest e with |value| < 2^e."""
    return math.frexp(value)[1]


def _steps(index: int, left: float, right: float, quantum: int, most_bits: int) -> tuple[float, float]:
    """2^eL and 2^eR for a column with these largest magnitudes."""
    if not (math.isfinite(left) and math.isfinite(right)):
        raise _unsnappable(index, f"its largest entries are {left} and {right}")
    if not left or not right:
        return 1.0, 1.0
    bits = _exponent(left) + _exponent(right) - quantum
    if bits > most_bits:
        raise _unsnappable(
            index,
            f"max|left| {left:.3g} times max|right| {right:.3g} takes {bits} bits above 2^{quantum}, "
            f"at most {most_bits} can be held",
        )
    total = quantum + max(0, bits - COLUMN_BITS)
    step_left = _exponent(left) - min(bits // 2, BITS)
    step_right = total - step_left
    step_left += round(math.ldexp(left, -step_left)) == 1 << BITS  # what rounds up to the next power of two
    step_right += round(math.ldexp(right, -step_right)) == 1 << BITS
    if step_left not in _EXPONENTS or step_right not in _EXPONENTS:
        raise _unsnappable(index, f"its steps 2^{step_left} and 2^{step_right} are outside float32")
    return math.ldexp(1.0, step_left), math.ldexp(1.0, step_right)


def _lowest_bit(matrix: Floats, axis: int) -> list[int]:
    """Per slice the exponent of the lowest set bit of any entry; a large number for all zeros. Float32 only."""

    def lowest(part: Floats) -> NDArray[np.int32]:
        bits = part.view(np.int32)
        exponent, whole = bits >> (BITS - 1) & 0xFF, bits & _FRACTION
        whole[exponent > 0] |= _FRACTION + 1
        # the lowest bit alone is a power of two, whose logarithm its float32 holds in the same place
        trailing = ((whole & -whole).astype(np.float32).view(np.int32) >> (BITS - 1)) - 127
        found = np.maximum(exponent, 1) - (126 + BITS) + trailing
        found[whole == 0] = _NONE
        made: NDArray[np.int32] = found.min(axis, initial=_NONE)
        return made

    rows = max(1, _PIECE // max(1, matrix.shape[1]))
    parts = [lowest(matrix[start : start + rows]) for start in range(0, max(1, len(matrix)), rows)]
    return [int(value) for value in (np.concatenate(parts) if axis else np.min(parts, axis=0))]


_SOLVE_HINT = "Raise mom2_update_weight or collect more tokens: the keys or the statistics are degenerate."


def _unsnappable(index: int, reason: str) -> EngineError:
    return EngineError(f"column {index} of the update cannot be stored exactly: {reason}", hint=_SOLVE_HINT)
