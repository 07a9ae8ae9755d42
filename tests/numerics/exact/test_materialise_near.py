"""A device may materialise where it gives the CPU's bytes, and only there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from memit_vc.numerics.exact import materialise_near as module
from memit_vc.numerics.exact.materialise import STORAGE_DTYPES, materialise
from memit_vc.numerics.exact.materialise_near import gives_the_cpus_bytes, materialise_near
from memit_vc.numerics.model.devices import CPU
from tests.support.cases import by_numpy

GPU = torch.device("cuda:0")
CASES = [(dtype, stored) for dtype in STORAGE_DTYPES for stored in ("out_in", "in_out")]


@pytest.fixture(autouse=True)
def _untried() -> Iterator[None]:
    gives_the_cpus_bytes.cache_clear()
    yield
    gives_the_cpus_bytes.cache_clear()


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize(("dtype", "stored"), CASES)
def test_the_case_holds_what_could_differ(dtype: str, stored: str) -> None:
    base, terms, weight = module._case(dtype, stored)
    edited = materialise(base, terms, weight)
    assert torch.equal(bits(edited[0, :4]), bits(base[0, :4]))  # −0.0, NaN and subnormal numbers, not edited
    assert bool(base[0, 1].isnan())
    assert bool((base[0, 2:4] != 0).all())
    assert float((edited != base).double().mean()) > 0.9
    assert torch.equal(bits(edited), bits(by_numpy(base, terms, weight)))


def test_the_cpu_passes_its_own_test() -> None:
    assert gives_the_cpus_bytes(CPU)


class Other:
    """Stands for the GPU: `materialise` on it is the CPU's with something done to the result."""

    def __init__(self, spoil: Any = lambda edited: edited) -> None:
        self.spoil, self.used = spoil, 0

    def __call__(self, *arguments: Any, device: torch.device | None = None) -> Tensor:
        edited = materialise(*arguments)
        if device == GPU:
            self.used += 1
            return self.spoil(edited)  # type: ignore[no-any-return]
        return edited


def near(monkeypatch: pytest.MonkeyPatch, other: Other, *, capability: tuple[int, int] = (9, 0)) -> Tensor:
    monkeypatch.setattr(module, "materialise", other)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    base, terms, weight = module._case("BF16", "out_in")
    found = materialise_near(base, terms, weight, GPU)
    assert torch.equal(bits(found), bits(materialise(base, terms, weight)))
    return found


def test_an_exact_device_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Other()
    near(monkeypatch, other)
    assert other.used == len(CASES) + 1
    near(monkeypatch, other)  # tried once
    assert other.used == len(CASES) + 2


def off_by_one_bit(edited: Tensor) -> Tensor:
    edited.view(torch.uint8)[-1, -1] ^= 1
    return edited


def cannot(_: Tensor) -> Tensor:
    raise RuntimeError("not implemented for this device")


@pytest.mark.parametrize("spoil", [off_by_one_bit, cannot])
def test_another_device_is_not(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spoil: Any) -> None:
    other = Other(spoil)
    near(monkeypatch, other)
    near(monkeypatch, other)
    assert other.used == 1  # tried once
    assert "materialised on the CPU: cuda:0" in caplog.text


def test_a_gpu_without_float64_units_is_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Other()
    near(monkeypatch, other, capability=(8, 9))
    assert not other.used


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("dtype", "stored"), CASES)
def test_a_gpu_gives_the_cpus_bytes(dtype: str, stored: str) -> None:
    base, terms, weight = module._case(dtype, stored)
    found = materialise(base, terms, weight, device=GPU)
    assert found.device == CPU
    assert torch.equal(bits(found), bits(materialise(base, terms, weight)))
