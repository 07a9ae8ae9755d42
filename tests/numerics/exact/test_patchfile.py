"""Patch and constraints blobs: the same bytes every time, and nothing believed that a stranger wrote."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from memit_vc.errors import EngineError, IntegrityError, StorageError
from memit_vc.numerics.exact.constraints import Constraints, encode_constraints, read_constraints
from memit_vc.numerics.exact.factored import Dense, LowRank
from memit_vc.numerics.exact.grid import Floats
from memit_vc.numerics.exact.patchfile import bounds, check_patch, column_ids, encode_patch, read_patch, read_weight
from memit_vc.numerics.exact.received import constraints_fit
from memit_vc.objects import (
    METADATA_KEY,
    ColumnId,
    EditableWeight,
    Patch,
    PatchHeader,
    PatchId,
    WeightForm,
    canonical_json,
    digest,
)
from tests.support.cases import base_weight, batch, dense_batch, header_of

_, WEIGHT = base_weight(1, 6, 5)
TERM = batch(2, WEIGHT, 3)
HEADER = header_of(WEIGHT, 3)
BLOB = encode_patch(HEADER, {WEIGHT.name: TERM})


def blob_id(blob: bytes) -> PatchId:
    return PatchId(hashlib.sha256(blob).hexdigest())


def forged(header: PatchHeader | dict[str, Any], **tensors: Floats) -> bytes:
    """A blob that our encoder would refuse to write."""
    record = header.to_json() if isinstance(header, PatchHeader) else header
    left_right = {f"{WEIGHT.name}.left": TERM.left, f"{WEIGHT.name}.right": TERM.right}
    named = {f"{WEIGHT.name}.{name}": tensor for name, tensor in tensors.items()} or left_right
    return bytes(save(named, {METADATA_KEY: canonical_json(record).decode()}))


def test_round_trip_and_one_sha256(tmp_path: Path) -> None:
    header, tensors = read_patch(BLOB)
    assert header == HEADER
    term = tensors[WEIGHT.name]
    assert isinstance(term, LowRank)
    assert np.array_equal(term.left, TERM.left)
    assert np.array_equal(term.right, TERM.right)
    assert {blob_id(encode_patch(header, tensors)) for _ in range(20)} == {blob_id(BLOB)}
    (tmp_path / "p").write_bytes(BLOB)
    assert read_patch(tmp_path / "p")[0] == HEADER
    # contiguity and order of insertion are not content
    turned = LowRank(np.asfortranarray(TERM.left), TERM.right)
    assert encode_patch(HEADER, {WEIGHT.name: turned}) == BLOB


def test_patch_bytes_are_the_factors_and_little_else() -> None:
    factors = 3 * (WEIGHT.d_out + WEIGHT.d_in) * 4
    header_and_padding = 8 + struct.unpack("<Q", BLOB[:8])[0]
    assert len(BLOB) == header_and_padding + factors


def test_column_ids_follow_the_written_rule() -> None:
    second = replace(WEIGHT, name="h.1.w")
    other = batch(5, second, 3)
    header = replace(HEADER, weights={"h.1.w": HEADER.weights[WEIGHT.name], WEIGHT.name: HEADER.weights[WEIGHT.name]})
    ids = column_ids(PatchId("unused"), header, {"h.1.w": other, WEIGHT.name: TERM})
    column = header.columns[1]
    payload = canonical_json({"base": header.base, "fact": column.fact, "role": column.role})
    for name, term in (("h.0.w", TERM), ("h.1.w", other)):
        payload += name.encode() + term.left[:, 1].tobytes() + term.right[1].tobytes()
    assert ids[1] == ColumnId(digest("column", payload))
    assert len(set(ids)) == 3


def test_a_column_keeps_its_id_when_it_is_packed_elsewhere() -> None:
    ids = column_ids(blob_id(BLOB), HEADER, {WEIGHT.name: TERM})
    header = replace(HEADER, columns=HEADER.columns[::-1][:2], provenance=None)
    packed = TERM.select([2, 1])
    assert column_ids(PatchId("other"), header, {WEIGHT.name: packed}) == (ids[2], ids[1])


def test_a_dense_patch_is_one_column_with_one_bound() -> None:
    term = dense_batch(1, WEIGHT)
    header = header_of(WEIGHT, 9, form="dense")
    blob = encode_patch(header, {WEIGHT.name: term})
    again, tensors = read_patch(blob)
    assert column_ids(blob_id(blob), again, tensors) == (ColumnId(digest("column", b"dense" + blob_id(blob).encode())),)
    largest = float(np.abs(term.delta).max()) / 2.0**WEIGHT.quantum
    assert bounds(again, tensors) == {WEIGHT.name: (largest,)}


def test_bounds_are_per_column_and_summed_where_the_patch_is_indivisible() -> None:
    single = bounds(HEADER, {WEIGHT.name: TERM})[WEIGHT.name]
    assert len(single) == 3
    top = float(np.abs(TERM.left[:, 0]).max()) * float(np.abs(TERM.right[0]).max()) / 2.0**WEIGHT.quantum
    assert single[0] == top
    mixed = replace(HEADER, weights={**HEADER.weights, "d": replace(HEADER.weights[WEIGHT.name], form="dense")})
    both = bounds(mixed, {WEIGHT.name: TERM, "d": dense_batch(1, WEIGHT)})
    assert both[WEIGHT.name] == (sum(single),)
    assert len(both["d"]) == 1


def test_columns_are_read_lazily_in_the_order_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(BLOB)
    found, whole = (read_weight(path, positions, WEIGHT.name) for positions in ((2, 0), ()))
    assert isinstance(found, LowRank)
    assert isinstance(whole, LowRank)
    assert np.array_equal(found.left, TERM.left[:, [2, 0]])
    assert np.array_equal(found.right, TERM.right[[2, 0]])
    assert np.array_equal(whole.left, TERM.left)
    assert read_weight(path, (), "absent") is None
    with pytest.raises(IntegrityError, match="has 3 columns, not 4"):
        read_weight(path, (3,), WEIGHT.name)
    with pytest.raises(StorageError):
        read_weight(tmp_path / "absent", (0,), WEIGHT.name)


def test_nothing_inexact_is_ever_encoded() -> None:
    finer = TERM.right.copy()
    finer[1] *= 1 + 2**-20
    with pytest.raises(EngineError, match=r"column 1 of 'h\.0\.w' is off the grid"):
        encode_patch(HEADER, {WEIGHT.name: LowRank(TERM.left, finer)})
    with pytest.raises(EngineError, match="float64"):
        encode_patch(HEADER, {WEIGHT.name: LowRank(TERM.left.astype(np.float64), TERM.right)})
    with pytest.raises(EngineError, match="tensors are"):
        encode_patch(HEADER, {})


def _altered(**changes: Any) -> dict[str, Any]:
    return {**HEADER.to_json(), **changes}


def _form(**changes: Any) -> dict[str, Any]:
    weights = HEADER.to_json()["weights"]
    return _altered(weights={WEIGHT.name: {**weights[WEIGHT.name], **changes}})  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (forged(_altered(format=3)), "patch format 3, this memit-vc reads 1 and 2"),
        (forged(_altered(format=2)), "canonical"),
        (forged(_altered(surprise=1)), "not canonical"),
        (forged(_altered(base="x")), "not a SHA-256"),
        (forged(_altered(base=7)), "not a SHA-256"),
        (forged(_altered(columns=[])), "no columns"),
        (forged(_altered(columns=[{"fact": "a" * 64, "role": "spy"}] * 3)), "neither edit nor cancel"),
        (forged(_altered(weights=[])), "lacks a field"),
        (forged(_altered(weights={})), "no columns or no weights"),
        (forged(_form(d_out=2**60)), r"its header says F32 \[1152921504606846976, 3\]"),
        (forged(_form(d_out=True)), "not whole numbers"),
        (forged(_form(quantum=10**9)), "quantum 1000000000"),
        (forged(_form(form="sparse")), "form 'sparse'"),
        (forged(HEADER, left=TERM.left), "its tensors are"),
        (forged(HEADER, left=TERM.left, right=TERM.right, more=TERM.left.copy()), "its tensors are"),
        (forged(HEADER, left=TERM.left.astype(np.float64), right=TERM.right), "is F64"),
        (forged(HEADER, left=TERM.left.astype(np.float16), right=TERM.right), "is F16"),
        (forged(HEADER, left=TERM.left.T.copy(), right=TERM.right), r"is F32 \[3, 6\]"),
        (forged(HEADER, left=TERM.left * np.float32("nan"), right=TERM.right), "NaN or infinity"),
        (forged(HEADER, left=TERM.left * np.float32("inf"), right=TERM.right), "NaN or infinity"),
        (forged(HEADER, left=TERM.left / np.float32(3), right=TERM.right), "off the grid"),
        (bytes(save({"a": TERM.left})), "is not a patch"),
        (bytes(save({"a": TERM.left}, {METADATA_KEY: "["})), "no format version"),
        (bytes(save({"a": TERM.left}, {METADATA_KEY: json.dumps(HEADER.to_json()), "b": ""})), "is not a patch"),
        (BLOB[:-1], "describes"),
        (BLOB + b"\0", "describes"),
        (struct.pack("<Q", 2**60) + BLOB[8:], "cut short"),
        (b"", "cut short"),
    ],
)
def test_hostile_blobs_are_refused(blob: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=message):
        read_patch(blob)
    path = tmp_path / "p"
    path.write_bytes(blob)
    with pytest.raises(IntegrityError, match=message):
        read_patch(path)


@given(data=st.data())
def test_a_mutated_blob_is_refused_or_harmless(data: st.DataObject) -> None:
    blob = bytearray(BLOB)
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(("flip", "delete", "insert")))
        place = data.draw(st.integers(0, len(blob) - 1))
        if kind == "flip":
            blob[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "delete":
            del blob[place]
        else:
            blob.insert(place, data.draw(st.integers(0, 255)))
    try:
        header, tensors = read_patch(bytes(blob))
    except IntegrityError:
        return
    encode_patch(header, tensors)


def test_check_patch_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(BLOB)
    tensors = {WEIGHT.name: TERM}
    right = Patch(blob_id(BLOB), HEADER, column_ids(blob_id(BLOB), HEADER, tensors), bounds(HEADER, tensors))
    assert check_patch(path, right) == []
    wrongs: list[tuple[Patch, str]] = [
        (replace(right, header=replace(HEADER, provenance=None, base=HEADER.columns[0].fact)), "header"),  # type: ignore[arg-type]
        (replace(right, columns=right.columns[::-1]), "columns"),
        (replace(right, bounds={WEIGHT.name: (1.0, 1.0, 1.0)}), "bounds"),
    ]
    for wrong, word in wrongs:
        (problem,) = check_patch(path, wrong)
        assert word in problem
        assert str(path) in problem
    path.write_bytes(BLOB[:50])
    assert len(check_patch(path, right)) == 1
    assert len(check_patch(tmp_path / "absent", right)) == 1


RANDOM = np.random.default_rng(0)
KEYS = {"a": RANDOM.normal(size=(5, 3)).astype("f4"), "b": RANDOM.normal(size=(7, 3)).astype("f4")}
TARGETS = {"a": RANDOM.normal(size=(4, 3)).astype("f4"), "b": RANDOM.normal(size=(4, 3)).astype("f4")}
Z = RANDOM.normal(size=(3, 4)).astype("f4")


def test_constraints_round_trip_and_columns(tmp_path: Path) -> None:
    blob = encode_constraints({n: k.astype(np.float64) for n, k in KEYS.items()}, TARGETS, Z)
    assert encode_constraints(KEYS, TARGETS, Z) == blob
    assert set(load(blob)) == {"a.keys", "a.targets", "b.keys", "b.targets", "z"}
    whole = read_constraints(blob)
    assert whole.n == 3
    path = tmp_path / "c"
    path.write_bytes(blob)
    part = read_constraints(path, (2, 0))
    for name in ("a", "b"):
        assert np.array_equal(whole.keys[name], KEYS[name])
        assert np.array_equal(part.keys[name], KEYS[name][:, [2, 0]])
        assert np.array_equal(part.targets[name], TARGETS[name][:, [2, 0]])
    assert np.array_equal(part.z, Z[[2, 0]])
    with pytest.raises(IntegrityError, match="holds 3 columns, not 6"):
        read_constraints(blob, (5,))


_META = {METADATA_KEY: canonical_json({"format": 1, "kind": "constraints"}).decode()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BLOB, "not a constraints blob"),
        (lambda: save({"a.keys": KEYS["a"], "z": Z}, _META), "not of the same weights"),
        (lambda: save({"a.keys": KEYS["a"], "a.targets": TARGETS["a"]}, _META), "z is missing"),
        (lambda: save({"z": Z.astype(np.float64)}, _META), "not an F32 matrix"),
        (
            lambda: save({"a.keys": KEYS["a"], "a.targets": TARGETS["a"][:, :2].copy(), "z": Z}, _META),
            "2 columns",
        ),
        (lambda: save({"a.keys": KEYS["a"] * np.float32("inf"), "a.targets": TARGETS["a"], "z": Z}, _META), "NaN"),
    ],
)
def test_constraints_of_another_shape_are_refused(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        read_constraints(bytes(make()))


def test_constraints_that_disagree_are_not_written() -> None:
    with pytest.raises(EngineError, match="columns"):
        encode_constraints(KEYS, TARGETS, Z[:2])


def test_ids_do_not_depend_on_the_layout_in_memory() -> None:
    turned = LowRank(np.asfortranarray(TERM.left), np.asfortranarray(TERM.right))
    assert column_ids(blob_id(BLOB), HEADER, {WEIGHT.name: turned}) == column_ids(
        blob_id(BLOB), HEADER, {WEIGHT.name: TERM}
    )


def test_weight_forms_of_the_header_decide() -> None:
    header = replace(HEADER, weights={WEIGHT.name: WeightForm(form="dense", d_out=6, d_in=5, quantum=-48)})
    with pytest.raises(EngineError, match="its tensors are"):
        encode_patch(header, {WEIGHT.name: TERM})
    with pytest.raises(IntegrityError, match="is dense"):
        column_ids(blob_id(BLOB), HEADER, {WEIGHT.name: Dense(np.zeros((6, 5), np.float32))})


@pytest.mark.parametrize(("width", "fits"), [(3, True), (5, False)])
def test_z_has_the_width_of_the_model(width: int, fits: bool) -> None:
    """Else two patches could not be put together, which a squash would find out."""
    known = {
        "w": EditableWeight(
            name="w", parameter="w", layer=0, orientation="out_in", d_out=3, d_in=4, dtype="F32", quantum=-30
        )
    }
    ones = Constraints({"w": np.ones((4, 2))}, {"w": np.ones((3, 2))}, np.ones((2, width)))
    assert constraints_fit(ones, known, 2) is fits
    assert not constraints_fit(ones, known, 3)
