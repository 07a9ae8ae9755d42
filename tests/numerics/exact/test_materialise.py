"""One definition, one set of bytes: order, split, backend and threads change nothing; undoing restores the bytes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memit_vc.errors import EngineError, IntegrityError, UnsupportedModelError
from memit_vc.numerics.exact.factored import Dense, LowRank, Term
from memit_vc.numerics.exact.grid import snap
from memit_vc.numerics.exact.materialise import Materialiser, delta, materialise, survived
from memit_vc.numerics.exact.patchfile import encode_patch, state_terms
from memit_vc.objects import PatchId
from tests.support.cases import base_weight, batch, bits, by_numpy, dense_batch, header_of
from tests.support.paths import ROOT

DTYPES = ("F32", "BF16", "F16", "F64")
orientations = st.sampled_from(("out_in", "in_out"))


@given(
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(DTYPES),
    orientation=orientations,
    d_out=st.integers(1, 40),
    d_in=st.integers(1, 40),
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    dense=st.booleans(),
    block_rows=st.integers(1, 50),
    size=st.sampled_from((1e-6, 1e-3, 1e-2)),
)
def test_order_grouping_blocks_and_backend_do_not_matter(
    seed: int,
    dtype: str,
    orientation: str,
    d_out: int,
    d_in: int,
    counts: list[int],
    dense: bool,
    block_rows: int,
    size: float,
) -> None:
    base, weight = base_weight(seed, d_out, d_in, dtype=dtype, orientation=orientation)
    terms: list[Term] = [batch(seed + i, weight, n, size=size) for i, n in enumerate(counts)]
    if dense:
        terms.append(dense_batch(seed, weight, size=size))
    expected = bits(materialise(base, terms, weight))

    columns = [term.select([i]) for term in terms if isinstance(term, LowRank) for i in range(term.rank)]
    split = [*columns, *(term for term in terms if isinstance(term, Dense))]
    random.Random(seed).shuffle(split)
    assert bits(materialise(base, split, weight)) == expected
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("memit_vc.numerics.exact.materialise.block_step", lambda _: block_rows)
        assert bits(materialise(base, terms[::-1], weight)) == expected
        assert bits(materialise(base, split, weight)) == expected
    assert bits(by_numpy(base, split, weight)) == expected


@given(seed=st.integers(0, 2**31), orientation=orientations)
def test_the_bytes_are_those_of_exact_arithmetic(seed: int, orientation: str) -> None:
    """Oracle: Python integers in grid units for D, one rounded addition, one cast."""
    base, weight = base_weight(seed, 5, 4, orientation=orientation)
    terms = [batch(seed, weight, 3), batch(seed + 1, weight, 2)]
    result = materialise(base, terms, weight)
    for row in range(5):
        for column in range(4):
            units = 0
            for term in terms:
                for k in range(term.rank):
                    # each product has at most 48 bits: exact in float64
                    product = float(term.left[row, k]) * float(term.right[k, column]) / 2.0**weight.quantum
                    assert product.is_integer()
                    units += int(product)
            place = (row, column) if orientation == "out_in" else (column, row)
            expected = torch.tensor(float(base[place]) + units * 2.0**weight.quantum, dtype=torch.float64).float()
            assert bits(result[place]) == bits(expected)


@given(seed=st.integers(0, 2**31), dtype=st.sampled_from(DTYPES), orientation=orientations)
def test_taking_out_what_was_put_in_restores_the_bytes(seed: int, dtype: str, orientation: str) -> None:
    base, weight = base_weight(seed, 9, 7, dtype=dtype, orientation=orientation)
    base.view(-1)[3] = -0.0
    kept, reverted = batch(seed, weight, 3), batch(seed + 1, weight, 2)
    before = materialise(base, [kept], weight)
    assert bits(materialise(base, [reverted, kept], weight)) != bits(before)
    assert bits(materialise(base, [kept], weight)) == bits(before)
    cancelled = [kept, reverted, LowRank(-reverted.left, reverted.right)]
    assert bits(materialise(base, cancelled, weight)) == bits(before)
    assert bits(materialise(base, [reverted, LowRank(-reverted.left, reverted.right)], weight)) == bits(base)
    assert bits(materialise(base, [], weight)) == bits(base)


@pytest.mark.parametrize(
    ("dtype", "pattern", "integer"),
    [
        ("F32", 0x7FA12345, torch.int32),  # a signalling NaN with a payload
        ("BF16", 0x7FA5, torch.int16),
        ("F16", 0x7D23, torch.int16),
    ],
)
@pytest.mark.parametrize("orientation", ["out_in", "in_out"])
def test_untouched_entries_keep_nan_payloads_and_negative_zeros(
    dtype: str, pattern: int, integer: torch.dtype, orientation: str
) -> None:
    base, weight = base_weight(3, 6, 8, dtype=dtype, orientation=orientation)
    stored = base.view(integer)
    edited_row = np.zeros((6, 1))
    edited_row[2] = 0.5
    term = LowRank(*snap(edited_row, np.full((1, 8), 0.01), weight.quantum))
    for i in range(6):
        place = (i, 1) if orientation == "out_in" else (1, i)
        if i != 2:
            stored[place] = pattern
            base[place[0] - (orientation == "in_out"), place[1] - (orientation == "out_in")] = -0.0
    result = materialise(base, [term], weight)
    changed = result.view(integer) != stored
    rows = changed if orientation == "out_in" else changed.T
    assert rows[2].all()
    assert not rows[[0, 1, 3, 4, 5]].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_square_conv1d_weight_is_not_mistaken_for_a_linear_one(dtype: str) -> None:
    linear, as_linear = base_weight(4, 8, 8, dtype=dtype)
    conv, as_conv = linear.T.contiguous(), base_weight(4, 8, 8, dtype=dtype, orientation="in_out")[1]
    term = batch(5, as_linear, 2)
    edited = materialise(linear, [term], as_linear)
    assert bits(materialise(conv, [term], as_conv)) == bits(edited.T)
    assert bits(edited.T) != bits(edited)


def test_rounding_is_to_nearest_even_through_float32() -> None:
    base, weight = base_weight(1, 1, 2, dtype="BF16")
    base[:] = torch.tensor([[1.0, 1.0 + 2**-7]])
    half = Dense(np.full((1, 2), 2.0**-8, np.float32))
    assert materialise(base, [half], weight).tolist() == [[1.0, 1.0 + 2**-6]]


@given(seed=st.integers(0, 2**31), rows=st.tuples(st.integers(0, 12), st.integers(0, 12)))
def test_rows_of_the_delta(seed: int, rows: tuple[int, int]) -> None:
    _, weight = base_weight(seed, 12, 5)
    terms: list[Term] = [batch(seed, weight, 3), dense_batch(seed, weight)]
    whole = delta(terms, weight)
    part = slice(min(rows), max(rows))
    assert torch.equal(Materialiser(terms, weight).stored_delta(part), whole[part])
    assert np.array_equal(sum(term.matrix() for term in terms), whole.numpy())
    assert whole.dtype == torch.float64


def test_many_columns_are_summed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    base, weight = base_weight(7, 20, 30, dtype="BF16")
    terms: list[Term] = [batch(i, weight, 37) for i in range(4)]
    expected = bits(materialise(base, terms, weight))
    monkeypatch.setattr("memit_vc.numerics.exact.materialise._COPY", 10 * 30)
    assert bits(materialise(base, terms, weight)) == expected


_SCRIPT = """
import hashlib, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from memit_vc.numerics.exact.materialise import materialise
from tests.support.cases import base_weight, batch, bits, by_numpy
base, weight = base_weight(11, 192, 512, dtype="BF16")
terms = [batch(i, weight, 10) for i in range(12)]
if sys.argv[2] == "reversed":
    terms.reverse()
made = {"torch": materialise, "numpy": by_numpy}[sys.argv[3]](base, terms, weight)
print(hashlib.sha256(bits(made)).hexdigest())
"""


def test_threads_processes_and_libraries_agree() -> None:
    runs = [("1", "forward", "torch"), ("2", "reversed", "torch"), ("2", "forward", "numpy")]
    found = set()
    for arguments in runs:
        environment = {**os.environ, "OMP_NUM_THREADS": arguments[0], "OPENBLAS_NUM_THREADS": arguments[0]}
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            cwd=ROOT,
        )
        found.add(done.stdout)
    assert len(found) == 1


def test_sums_that_could_round_are_refused() -> None:
    base, weight = base_weight(1, 3, 3)
    large = LowRank(*snap(np.full((3, 1), 0.25), np.full((1, 3), 0.75), weight.quantum))
    limit = int(2.0**53 / (0.1875 / 2.0**weight.quantum))
    materialise(base, [large] * limit, weight)
    with pytest.raises(EngineError, match=r"h\.0\.w: the live updates add up to"):
        materialise(base, [large] * (limit + 1), weight)


def test_terms_of_another_weight_are_refused() -> None:
    base, weight = base_weight(1, 3, 4)
    with pytest.raises(IntegrityError, match="does not fit a weight of 3 × 4"):
        materialise(base, [LowRank(np.zeros((4, 1), np.float32), np.zeros((1, 3), np.float32))], weight)
    with pytest.raises(IntegrityError, match="off the grid"):
        materialise(base, [LowRank(np.full((3, 1), 1 / 3, np.float32), np.full((1, 4), 1 / 3, np.float32))], weight)
    with pytest.raises(IntegrityError, match="does not fit"):
        materialise(base, [Dense(np.zeros((3, 4)))], weight)
    with pytest.raises(IntegrityError, match=r"the base tensor is \[4, 3\]"):
        materialise(base.T, [], weight)
    with pytest.raises(UnsupportedModelError, match="int8"):
        materialise(base.to(torch.int8), [], weight)


def test_overflow_of_the_storage_dtype_is_refused() -> None:
    base, weight = base_weight(1, 2, 2, dtype="F16", scale=20000.0)
    base[:] = 65000.0
    term = Dense(np.full((2, 2), 1024.0, np.float32))
    with pytest.raises(EngineError, match="overflows F16"):
        materialise(base, [term], weight)


def test_how_much_of_an_edit_survives_the_cast() -> None:
    base, weight = base_weight(9, 64, 64)
    assert survived(base, [batch(1, weight, 4)], weight) == pytest.approx(1.0, abs=1e-6)
    half, weight = base_weight(9, 64, 64, dtype="BF16")
    drowned = batch(1, weight, 4, size=1e-7)
    assert survived(half, [drowned], weight) < 0.2
    assert survived(half, [batch(2, weight, 4, size=1e-2)], weight) == pytest.approx(1.0, abs=0.02)
    assert survived(half, [batch(2, weight, 4, size=1e-2)], weight, before=[drowned]) == pytest.approx(1.0, abs=0.02)
    assert survived(half, [], weight) == 1.0


def test_the_terms_of_a_state_come_from_its_patches(tmp_path: Path) -> None:
    base, weight = base_weight(2, 6, 5)
    first, second, whole = batch(1, weight, 3), batch(2, weight, 2), dense_batch(3, weight)
    blobs = {
        PatchId("a"): encode_patch(header_of(weight, 3), {weight.name: first}),
        PatchId("b"): encode_patch(header_of(weight, 2), {weight.name: second}),
        PatchId("c"): encode_patch(header_of(weight, 9, form="dense"), {weight.name: whole}),
    }
    for name, data in blobs.items():
        (tmp_path / name).write_bytes(data)
    selection = {PatchId("a"): (0, 2), PatchId("b"): (), PatchId("c"): ()}
    terms = state_terms(lambda patch: tmp_path / patch, selection, weight.name)
    by_hand: list[Term] = [first.select([0, 2]), second, whole]
    assert bits(materialise(base, terms, weight)) == bits(materialise(base, by_hand, weight))
    assert state_terms(lambda patch: tmp_path / patch, selection, "another.weight") == []
