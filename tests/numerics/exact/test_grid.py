"""Snapping: representable, on the grid, close to what was meant, or refused with numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memit_vc.errors import EngineError
from memit_vc.numerics.exact.grid import (
    break_even,
    column_bounds,
    dense_off_grid,
    low_rank_off_grid,
    quantum,
    quantum_of,
    snap,
    snap_dense,
)
from memit_vc.numerics.exact.materialise import STORAGE_DTYPES
from memit_vc.vcs.exact import check_bound


@pytest.mark.parametrize(
    ("largest", "exponent"), [(1.0, -44), (1.99, -44), (2.0, -43), (0.1, -48), (0.0, -44), (2.0**-130, -174)]
)
def test_quantum_is_44_bits_below_the_largest_entry(largest: float, exponent: int) -> None:
    assert quantum(largest) == exponent


def stored(tensor: torch.Tensor) -> list[bytes]:
    """Its bytes, in two pieces."""
    data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    half = len(data) // 2
    return [data[:half], data[half:]]


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 0.04, 3.0])
def test_the_quantum_of_stored_bytes_is_that_of_their_largest_entry(dtype: str, scale: float) -> None:
    tensor = (torch.randn(6, 8, generator=torch.Generator().manual_seed(3)) * scale).to(STORAGE_DTYPES[dtype])
    tensor[5, 7] = -tensor.abs().max() * 2
    assert quantum_of(stored(tensor), dtype) == quantum(float(tensor.abs().max()))


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_base_tensor_that_is_not_finite_is_refused_by_name(value: float, dtype: str) -> None:
    tensor = torch.zeros(3, 4, dtype=STORAGE_DTYPES[dtype])
    tensor[1, 2] = value
    with pytest.raises(EngineError, match=r"h\.4\.mlp: 1 of 12 entries"):
        quantum_of(stored(tensor), dtype, "h.4.mlp")


def test_no_entries_have_the_quantum_of_zeros() -> None:
    assert quantum_of([], "F32") == quantum(0.0)


@given(
    seed=st.integers(0, 2**31),
    scale_left=st.integers(-30, 30),
    size=st.integers(-20, 1),
    largest=st.integers(-20, 20),
    n=st.integers(1, 5),
)
def test_snapped_factors_are_integers_of_a_pair_of_steps(
    seed: int, scale_left: int, size: int, largest: int, n: int
) -> None:
    random = np.random.default_rng(seed)
    e = quantum(2.0**largest)
    left = random.normal(size=(7, n)).clip(-1, 1) * 2.0**scale_left
    right = random.normal(size=(n, 5)).clip(-1, 1) * 2.0 ** (largest + size - scale_left)
    snapped_left, snapped_right = snap(left, right, e)
    assert snapped_left.dtype == snapped_right.dtype == np.float32
    assert low_rank_off_grid(snapped_left, snapped_right, e) == []
    products = snapped_left.astype(float)[:, :, None] * snapped_right.astype(float)[None] / 2.0**e
    assert np.array_equal(products, products.round())
    tops = np.abs(products).max(axis=(0, 2)).tolist()
    assert tops == list(column_bounds(snapped_left, snapped_right, e))
    for i in range(n):
        exact = np.outer(left[:, i], right[i])
        error = np.abs(np.outer(snapped_left[:, i].astype(float), snapped_right[i].astype(float)) - exact).max()
        # half a step of each factor against the other one's largest entry, at half the bits each
        units = float(np.abs(left[:, i]).max() * np.abs(right[i]).max()) / 2.0**e
        assert float(error) / 2.0**e <= 1.5 * math.sqrt(units) + 1


@given(seed=st.integers(0, 2**31), bits=st.integers(49, 52), up=st.booleans())
def test_a_column_too_large_for_two_factors_takes_larger_steps(seed: int, bits: int, up: bool) -> None:
    random = np.random.default_rng(seed)
    e = quantum(1.0)
    left, right = random.normal(size=(7, 1)).clip(-1, 1), random.normal(size=(1, 5)).clip(-1, 1)
    left[0], right[0, 0] = 1.0 - up * 2.0**-40, 1.0 - up * 2.0**-40
    left *= 2.0**3
    right *= 2.0 ** (bits - 5 + e)
    snapped_left, snapped_right = snap(left, right, e)
    assert low_rank_off_grid(snapped_left, snapped_right, e) == []
    assert column_bounds(snapped_left, snapped_right, e)[0] < 2**53
    products = [
        [Fraction(float(a)) * Fraction(float(b)) / Fraction(2) ** e for b in snapped_right[0]]
        for a in snapped_left[:, 0]
    ]
    assert all(product.denominator == 1 for row in products for product in row)
    assert np.abs(snapped_left - left).max() <= 2.0 ** (3 - 23)
    assert np.abs(snapped_right - right).max() <= 2.0 ** (bits - 5 + e - 23)


def test_snapping_costs_two_millionths_of_an_ordinary_delta() -> None:
    random = np.random.default_rng(1)
    weight = torch.from_numpy(random.normal(size=(96, 256)) * 0.05)
    left = random.normal(size=(96, 20)) * 3
    right = random.normal(size=(20, 256)) * 0.01 / 3 / math.sqrt(20)
    exact = left @ right
    snapped_left, snapped_right = snap(left, right, quantum(float(weight.abs().max())))
    error = snapped_left.astype(float) @ snapped_right.astype(float) - exact
    assert float(np.linalg.norm(error) / np.linalg.norm(exact)) <= 2e-6


def test_snap_dense_costs_less_than_float32_does() -> None:
    delta = np.random.default_rng(2).normal(size=(30, 20)) * 1e-3
    e = quantum(0.1)
    snapped = snap_dense(delta, e)
    assert not dense_off_grid(snapped, e)
    assert float(np.linalg.norm(snapped - delta) / np.linalg.norm(delta)) <= 2e-6


@given(seed=st.integers(0, 2**31), scale=st.integers(-60, 60))
def test_a_dense_update_shares_one_step_at_or_above_the_grid(seed: int, scale: int) -> None:
    delta = np.random.default_rng(seed).normal(size=(6, 5)) * 2.0**scale
    e = quantum(1.0)
    snapped = snap_dense(delta, e)
    assert not dense_off_grid(snapped, e)
    step = max(2.0**e, 2.0 ** (math.frexp(float(np.abs(delta).max()))[1] - 24))
    assert float(np.abs(snapped - delta).max()) <= step


def test_an_entry_that_rounds_up_to_the_next_power_takes_a_larger_dense_step() -> None:
    delta = np.full((1, 1), 2.0 - 2.0**-40)
    assert snap_dense(delta, -44).item() == 2.0


def test_zero_columns_stay_zero_and_have_no_negative_zero() -> None:
    left = np.array([[-0.0, 1.0], [-0.0, -1e-30]])
    right = np.array([[1.0, 2.0], [1e-3, 2e-3]])
    snapped_left, snapped_right = snap(left, right, quantum(1.0))
    assert snapped_left[:, 0].tolist() == [0.0, 0.0]
    assert snapped_right[0].tolist() == [0.0, 0.0]
    assert not np.signbit(snapped_left[:, 0]).any()
    assert not np.signbit(snapped_left[1, 1])


def test_a_column_below_the_grid_becomes_zero() -> None:
    tiny = np.full((2, 1), 1e-12)
    snapped_left, snapped_right = snap(tiny, tiny.T, quantum(1.0))
    assert not snapped_left.any()
    assert not snapped_right.any()


def test_no_columns_at_all() -> None:
    left, right = snap(np.zeros((3, 0)), np.zeros((0, 4)), -44)
    assert (left.shape, right.shape) == ((3, 0), (0, 4))
    assert column_bounds(left, right, -44) == ()


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (100.0, 100.0, r"column 0 .* 100 times .* 100 takes 58 bits"),
        (math.nan, 1.0, r"column 0 .* nan"),
        (1.0, math.inf, r"column 0 .* inf"),
        (1e-60, 1e58, r"column 0 .* outside float32"),
    ],
)
def test_a_column_that_cannot_be_held_is_refused_with_its_numbers(left: float, right: float, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        snap(np.full((2, 1), left), np.full((1, 2), right), quantum(1.0))


def test_a_dense_update_that_is_not_finite_is_refused() -> None:
    with pytest.raises(EngineError, match="nan"):
        snap_dense(np.full((2, 2), math.nan), -44)


def test_factors_off_the_grid_are_seen() -> None:
    e = quantum(1.0)
    left, right = snap(np.array([[1.0, 0.5], [0.3, 0.2]]), np.array([[1e-3, 2e-3], [3e-3, 1e-3]]), e)
    finer = right.copy()
    finer[1, 0] *= 1 + 2**-20
    assert low_rank_off_grid(left, right, e) == []
    assert low_rank_off_grid(left, finer, e) == [1]
    assert low_rank_off_grid(left, right, e + 8) != []
    assert dense_off_grid(np.array([[2.0**-46]], np.float32), e)
    assert dense_off_grid(np.array([[1.0, 2.0**-30]], np.float32), e)  # 31 bits between them: no single step below 2^24


def test_bounds_that_float64_cannot_sum_are_refused() -> None:
    check_bound({"a": 2.0**53 - 1})
    with pytest.raises(EngineError, match="b: the live updates add up to 1 of"):
        check_bound({"a": 0.0, "b": 2.0**53})
    with pytest.raises(EngineError):
        check_bound({"a": math.nan})


def test_break_even_is_where_two_factors_weigh_as_much_as_the_matrix() -> None:
    d_out, d_in = 576, 1536
    n = break_even(d_out, d_in)
    assert n * (d_out + d_in) == pytest.approx(d_out * d_in)
