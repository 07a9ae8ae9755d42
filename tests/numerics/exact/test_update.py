"""A state of more columns than memory should hold: the same bytes, read some columns at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from memit_vc.errors import EngineError, IntegrityError
from memit_vc.numerics.exact import update as module
from memit_vc.numerics.exact.factored import Dense, Term
from memit_vc.numerics.exact.materialise import materialise
from memit_vc.numerics.exact.patchfile import encode_patch, read_pieces, read_weight, state_terms
from memit_vc.numerics.exact.update import StateTerms, Update
from memit_vc.objects import EditableWeight, PatchId
from tests.support.cases import base_weight, batch, bits, dense_batch, header_of

Selection = dict[PatchId, tuple[int, ...]]


def stored(directory: Path, weight: EditableWeight, dense: bool) -> Selection:
    """Patches as files named by number, some of their columns live."""
    patches = [batch(1, weight, 40), batch(2, weight, 3), *([dense_batch(3, weight)] if dense else [])]
    for i, term in enumerate(patches):
        kind, count = ("dense", 1) if isinstance(term, Dense) else ("low_rank", term.rank)
        header = header_of(weight, count, form=kind)
        (directory / str(i)).write_bytes(encode_patch(header, {weight.name: term}))
    live: list[tuple[int, ...]] = [(0, 3, 21, 39), (), ()]
    return {PatchId(str(i)): live[i] for i in range(len(patches))}


def edited(update: Update, base: torch.Tensor) -> torch.Tensor:
    result = base.clone()
    for rows, edit in update.blocks():
        result[rows] = edit(base[rows].clone())
    return result


@pytest.mark.parametrize("orientation", ["out_in", "in_out"])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("held", [10, 1 << 24])
def test_the_bytes_are_the_same_however_few_columns_are_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: str, dtype: str, dense: bool, held: int
) -> None:
    base, weight = base_weight(5, 300, 70, dtype=dtype, orientation=orientation)
    base[7, 3], base[0, 0] = float("nan"), -0.0
    selection = stored(tmp_path, weight, dense)
    expected = bits(materialise(base, state_terms(lambda p: tmp_path / p, selection, weight.name), weight))
    monkeypatch.setattr(module, "_HELD", held)
    monkeypatch.setattr(module, "_SLAB", 64 * 70)
    monkeypatch.setattr("memit_vc.numerics.exact.materialise._BLOCK", 1)
    monkeypatch.setattr("memit_vc.numerics.exact.materialise._ROWS", 64)
    monkeypatch.setattr("memit_vc.numerics.exact.patchfile._PIECE", 2)
    terms = StateTerms(lambda p: tmp_path / p, selection.items(), weight.name)
    assert len(list(terms)) > 3
    update = Update(terms, weight)
    assert len(list(update.blocks())) > 1
    assert bits(edited(update, base)) == expected
    assert bits(base) != expected


def test_pieces_are_the_columns_of_the_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, weight = base_weight(5, 30, 20)
    selection = stored(tmp_path, weight, dense=True)
    monkeypatch.setattr("memit_vc.numerics.exact.patchfile._PIECE", 7)
    for patch, positions in selection.items():
        whole = read_weight(tmp_path / patch, positions, weight.name)
        pieces = list(read_pieces(tmp_path / patch, positions, weight.name))
        if isinstance(whole, Dense):
            assert len(pieces) == 1
            continue
        assert whole is not None
        parts = [piece for piece in pieces if not isinstance(piece, Dense)]
        assert np.array_equal(np.concatenate([part.left for part in parts], axis=1), whole.left)
        assert np.array_equal(np.concatenate([part.right for part in parts]), whole.right)
    assert list(read_pieces(tmp_path / "0", (), "another.weight")) == []
    with pytest.raises(IntegrityError, match="has 40 columns, not 41"):
        list(read_pieces(tmp_path / "0", (40,), weight.name))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_no_file_stays_open_for_its_columns(tmp_path: Path) -> None:
    _, weight = base_weight(5, 30, 20)
    selection = stored(tmp_path, weight, dense=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    held = [state_terms(lambda p: tmp_path / p, selection, weight.name) for _ in range(20)]
    held += [list(read_pieces(tmp_path / patch, (), weight.name)) for patch in selection]
    assert len(held) == 23
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_terms_are_checked_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    _, weight = base_weight(1, 30, 20)
    monkeypatch.setattr(module, "_HELD", 10)
    with pytest.raises(IntegrityError, match="off the grid"):
        Update([batch(1, weight, 3), batch(2, replace(weight, quantum=weight.quantum - 9), 3, size=1e-6)], weight)

    class Many:
        def __iter__(self) -> Iterator[Term]:
            yield from [batch(1, weight, 8, size=0.1)] * 1000

    with pytest.raises(EngineError, match="the live updates add up to"):
        Update(Many(), weight)
