"""The factor of λC against torch.linalg.solve, and what happens where λC is not positive definite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memit_vc.errors import EngineError, IntegrityError
from memit_vc.numerics.statistics.factors import RIDGES, Factor, factorise


def second_moment(size: int, samples: int, *, seed: int = 0) -> Tensor:
    keys = torch.randn(size, samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return keys @ keys.T / samples


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**31 - 1), st.sampled_from([0.5, 500.0, 15000.0]))
def test_solve_equals_the_dense_solve(size: int, seed: int, weight: float) -> None:
    moment = second_moment(size, 4 * size + 8, seed=seed)
    keys = torch.randn(size, 3, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    factor = factorise(moment, weight)
    assert factor.ridge == 0.0
    expected = torch.linalg.solve(weight * moment, keys)
    assert torch.allclose(factor.solve(keys), expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))
    assert torch.allclose(factor.matrix(), weight * moment, rtol=1e-12, atol=1e-12 * weight)


def test_float32_moment_and_keys_are_solved_in_float64() -> None:
    moment = second_moment(16, 100).float()
    keys = torch.randn(16, 2)
    solved = factorise(moment, 500.0).solve(keys)
    assert solved.dtype == torch.float64
    expected = torch.linalg.solve(500.0 * moment.double(), keys.double())
    assert torch.allclose(solved, expected, rtol=1e-10, atol=1e-14)


def test_rank_deficient_moment_gets_a_recorded_ridge() -> None:
    moment = second_moment(24, 10)
    factor = factorise(moment, 100.0)
    shares = [share * float(100.0 * moment.diagonal().mean()) for share in RIDGES]
    assert factor.ridge == pytest.approx(min(shares), rel=1e-12)
    shifted = 100.0 * moment + factor.ridge * torch.eye(24, dtype=torch.float64)
    keys = torch.randn(24, 3, dtype=torch.float64)
    assert torch.allclose(shifted @ factor.solve(keys), keys, atol=1e-6)
    assert torch.equal(factorise(moment, 100.0, ridge=factor.ridge).lower, factor.lower)


def test_a_dead_input_gets_a_ridge() -> None:
    moment = second_moment(8, 100)
    moment[3, :] = moment[:, 3] = 0.0
    assert factorise(moment, 1.0).ridge > 0.0


def test_float32_rounding_of_a_rank_deficient_moment_is_no_crash() -> None:
    factor = factorise(second_moment(200, 60).float(), 500.0)
    assert factor.ridge > 0.0
    assert bool(factor.solve(torch.randn(200, 4)).isfinite().all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_moment_is_refused(value: float) -> None:
    moment = second_moment(4, 20)
    moment[1, 2] = value
    with pytest.raises(EngineError, match="not finite"):
        factorise(moment, 1.0)


def test_moments_that_cannot_be_ones_are_refused() -> None:
    with pytest.raises(EngineError, match="square"):
        factorise(torch.ones(3, 4), 1.0)
    with pytest.raises(EngineError, match="not positive definite"):
        factorise(torch.zeros(3, 3), 1.0)
    with pytest.raises(EngineError, match="not positive definite"):
        factorise(-torch.eye(3), 1.0)
    with pytest.raises(EngineError, match="mom2_update_weight"):
        factorise(torch.eye(3), 0.0)
    with pytest.raises(EngineError, match="do not fit"):
        factorise(torch.eye(3), 1.0).solve(torch.ones(4, 1))


def test_saved_factor_is_the_same_bits_at_half_the_bytes(tmp_path: Path) -> None:
    factor = factorise(second_moment(65, 30), 500.0)
    path = tmp_path / "deep" / "factor.safetensors"
    factor.save(path)
    loaded = Factor.load(path)
    assert torch.equal(loaded.lower, factor.lower)
    assert loaded.ridge == factor.ridge > 0
    assert path.stat().st_size < 0.52 * 65 * 65 * 8 + 512
    assert [p.name for p in path.parent.iterdir()] == ["factor.safetensors"]


def test_damaged_factor_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "factor.safetensors"
    factorise(second_moment(8, 30), 1.0).save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(IntegrityError, match=r"factor\.safetensors"):
        Factor.load(path)
    with pytest.raises(FileNotFoundError):
        Factor.load(tmp_path / "absent")
    Factor(torch.zeros(4, 4, dtype=torch.float64)).save(path)
    with pytest.raises(IntegrityError, match="impossible"):
        Factor.load(path)


def test_a_thousand_inputs() -> None:
    moment = second_moment(1024, 2048).float()
    keys = torch.randn(1024, 5)
    factor = factorise(moment, 15000.0)
    expected = torch.linalg.solve(15000.0 * moment.double(), keys.double())
    assert float((factor.solve(keys) - expected).norm() / expected.norm()) < 1e-10
