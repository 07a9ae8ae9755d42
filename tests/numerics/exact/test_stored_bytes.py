"""Bytes that repositories hold today: blobs, column ids and bounds of made-up patches, fixed for good."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest

from memit_vc.numerics.exact.constraints import encode_constraints, read_constraints
from memit_vc.numerics.exact.factored import Dense, LowRank
from memit_vc.numerics.exact.grid import Floats, snap, snap_dense
from memit_vc.numerics.exact.patchfile import PatchTensors, bounds, column_ids, encode_patch, read_patch
from memit_vc.objects import BaseId, BlobId, FactId, PatchColumn, PatchHeader, PatchId, WeightForm

QUANTA = {"h.0.w": -47, "h.11.w": -44, "h.2.w": -50}
SHAPES = {"h.0.w": (12, 7), "h.11.w": (5, 9), "h.2.w": (8, 6)}


def numbers(seed: int, *shape: int) -> Floats:
    """Between −1 and 1, by arithmetic that no library may change: float64."""
    count = int(np.prod(shape))
    whole = (np.arange(count, dtype=np.int64) * 7919 + seed * 104729) % 100003
    return np.asarray((whole.reshape(shape) - 50001) / 50001)


def header(forms: dict[str, WeightForm], roles: str) -> PatchHeader:
    return PatchHeader(
        base=BaseId("ab" * 32),
        weights=forms,
        columns=tuple(
            PatchColumn(fact=FactId(f"{i:064x}"), role="cancel" if role == "c" else "edit")
            for i, role in enumerate(roles)
        ),
        provenance=BlobId("cd" * 32),
    )


def form(name: str, kind: str, rank: int | None = None) -> WeightForm:
    d_out, d_in = SHAPES[name]
    return WeightForm(form=kind, d_out=d_out, d_in=d_in, quantum=QUANTA[name], rank=rank)  # type: ignore[arg-type]


def low_rank(name: str, columns: int) -> LowRank:
    d_out, d_in = SHAPES[name]
    left, right = numbers(1, d_out, columns) * 3, numbers(2, columns, d_in) * 1e-3
    left[:, columns - 1] *= 1e-12  # below the grid: a column of zeros
    return LowRank(*snap(left, right, QUANTA[name]))


def dense(name: str) -> Dense:
    return Dense(snap_dense(numbers(3, *SHAPES[name]) * 1e-2, QUANTA[name]))


CASES: dict[str, tuple[PatchHeader, PatchTensors]] = {
    "low rank": (
        header({name: form(name, "low_rank") for name in ("h.2.w", "h.0.w", "h.11.w")}, "eece"),
        {name: low_rank(name, 4) for name in ("h.2.w", "h.0.w", "h.11.w")},
    ),
    "joint": (
        header({"h.0.w": form("h.0.w", "joint", 2), "h.11.w": form("h.11.w", "joint", 0)}, "eee"),
        {"h.0.w": low_rank("h.0.w", 2), "h.11.w": LowRank(*snap(numbers(1, 5, 0), numbers(1, 0, 9), -44))},
    ),
    "dense": (
        header({"h.0.w": form("h.0.w", "dense"), "h.2.w": form("h.2.w", "low_rank")}, "eceee"),
        {"h.0.w": dense("h.0.w"), "h.2.w": low_rank("h.2.w", 5)},
    ),
}
STORED: dict[str, tuple[str, tuple[str, ...], dict[str, tuple[float, ...]]]] = {
    "low rank": (
        "717a2302eda0d2a6bb0f849ea6ad2432990215786d676f74ea37358b65fff61d",
        (
            "db7bc0229a5c04d5ea938a8d222c1409010f51355a75c93cfccd4bdc08949d16",
            "b6a6f2e5f9f1ef93947e3514efe926e756425f794893fdd3ecc740c5cd4fba48",
            "e0c6de788e9a45d634668838989c1c53e7d6dbe304b6ad6cbfb45dcd8a1d123a",
            "0cffe269b709bba02b47ba786cb28360883477d5edd46ce8373301d59c09a9c1",
        ),
        {
            "h.2.w": (2725605731453.0, 2975725109336.0, 2422462039566.0, 2.0),
            "h.0.w": (340701129756.0, 375236955312.0, 222400787430.0, 1.0),
            "h.11.w": (42587543403.0, 41605924938.0, 35961198537.0, 0.0),
        },
    ),
    "joint": (
        "65c48bab8e3cd460336c60f83e09427421b48e02a8a451d0ef85d16cfd5820b3",
        ("88ecaa0f71ed14875435279135686929f48f12d95c827bc65ae8e6c938c1766f",),
        {"h.0.w": (340701129756.0,), "h.11.w": (0,)},
    ),
    "dense": (
        "7973e85e6984449820bcd67bb8707af16af9d4c7864c7411505338e95ab40250",
        ("a12a0a24a5fc6b1bd7c44be7e6131cc1a5888b84319ecb63fba8a74deee3cf96",),
        {"h.0.w": (1402702528512.0,), "h.2.w": (10775446517662.0,)},
    ),
}
CONSTRAINTS = "d60bbc3188cd32ceedc5d7368d2c388d1c001844c9f4091d5ea95123cb32dfff"


@pytest.mark.parametrize("name", CASES)
def test_a_patch_is_stored_as_it_always_was(name: str) -> None:
    described, tensors = CASES[name]
    blob = encode_patch(described, tensors)
    patch = PatchId(sha256(blob).hexdigest())
    columns, units = column_ids(patch, described, tensors), bounds(described, tensors)
    assert (patch, columns, units) == STORED[name]
    again, read = read_patch(blob)
    assert again == described
    assert (column_ids(patch, again, read), bounds(again, read)) == (columns, units)


def test_constraints_are_stored_as_they_always_were() -> None:
    keys = {name: numbers(4, shape[1], 3) for name, shape in SHAPES.items()}
    targets = {name: numbers(5, shape[0], 3) for name, shape in SHAPES.items()}
    blob = encode_constraints(keys, targets, numbers(6, 3, 8))
    assert sha256(blob).hexdigest() == CONSTRAINTS
    found = read_constraints(blob)
    assert encode_constraints(found.keys, found.targets, found.z) == blob
