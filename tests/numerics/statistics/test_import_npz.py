"""Caches of EasyEdit and memit, in the three spellings of a model's directory."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from memit_vc.errors import EngineError, IntegrityError, StorageError, UsageError
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.statistics.import_npz import Asked, _read, find_statistics, imported_corpus, read_statistics
from memit_vc.numerics.statistics.moments import Moments
from tests.support.models import load, tiny

NAME = "EleutherAI/gpt-j-6B"
SPELLINGS = ("EleutherAI_gpt-j-6B", "gpt-j-6B", "._hugging_cache_gpt-j-6B")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load(tiny("gptj", tmp_path_factory.mktemp("gptj")))


def summed(layer: int, size: int = 128) -> Tensor:
    keys = torch.randn(size, 300, generator=torch.Generator().manual_seed(layer))
    return keys @ keys.T


def write(root: Path, layer: int, *, total: Tensor | None = None, count: object = 300, suffix: str = "_100000") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"transformer.h.{layer}.mlp.fc_out_float32_mom2{suffix}.npz"
    arrays = {
        "mom2.constructor": np.array("runningstats.SecondMoment()"),
        "mom2.count": np.array(count),
        "mom2.mom2": (summed(layer) if total is None else total).numpy(),
        "sample_size": np.array(100000),
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def imported(source: Path, *, model_name: str, adapter: ModelAdapter, layers: Sequence[int] | None = None) -> Moments:
    return read_statistics(find_statistics(source, model_name=model_name, adapter=adapter, layers=layers), adapter)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_is_found_and_normalised(tmp_path: Path, adapter: ModelAdapter, spelling: str) -> None:
    for layer in (1, 2):
        write(tmp_path / spelling / "wikipedia_stats", layer)
        write(tmp_path / "another-model" / "wikipedia_stats", layer)
    found = imported(tmp_path, model_name=NAME, adapter=adapter)
    assert sorted(found.moment) == [1, 2]
    assert found.count == 300
    for layer in (1, 2):
        assert torch.equal(found.moment[layer], summed(layer) / 300)


@pytest.mark.parametrize("below", ["", "gpt-j-6B", "gpt-j-6B/wikipedia_stats"])
def test_any_level_of_the_tree_can_be_named(tmp_path: Path, adapter: ModelAdapter, below: str) -> None:
    write(tmp_path / "gpt-j-6B" / "wikipedia_stats", 1, suffix="_t{batch_tokens}_100000")
    found = imported(tmp_path / below, model_name=NAME, adapter=adapter, layers=[1])
    assert torch.equal(found.moment[1], summed(1) / 300)


def test_one_file(tmp_path: Path, adapter: ModelAdapter) -> None:
    path = write(tmp_path, 3)
    assert list(imported(path, model_name="anything", adapter=adapter).moment) == [3]


def test_the_corpus_of_imported_moments_is_their_content(tmp_path: Path, adapter: ModelAdapter) -> None:
    write(tmp_path, 1)
    files = find_statistics(tmp_path, model_name=NAME, adapter=adapter)
    first = imported_corpus(files)
    assert first["kind"] == "imported"
    write(tmp_path, 1, count=301)
    assert imported_corpus(files)["files"] != first["files"]


def test_another_models_size_names_file_and_layer(tmp_path: Path, adapter: ModelAdapter) -> None:
    path = write(tmp_path / "gpt-j-6B" / "wikipedia_stats", 1, total=summed(1, 64))
    with pytest.raises(EngineError, match=r"64 × 64, layer 1 .* size 128") as caught:
        imported(tmp_path, model_name=NAME, adapter=adapter)
    assert str(path) in caught.value.message


def test_what_is_missing_is_said(tmp_path: Path, adapter: ModelAdapter) -> None:
    write(tmp_path / "gpt-j-6B" / "wikipedia_stats", 1)
    with pytest.raises(StorageError, match="layers 2, 3"):
        imported(tmp_path, model_name=NAME, adapter=adapter, layers=[1, 2, 3])
    with pytest.raises(StorageError, match="any layer of gpt2-xl"):
        imported(tmp_path, model_name="gpt2-xl", adapter=adapter)
    with pytest.raises(StorageError, match="absent"):
        imported(tmp_path / "absent", model_name=NAME, adapter=adapter)


def test_two_candidates_are_not_guessed_between(tmp_path: Path, adapter: ModelAdapter) -> None:
    write(tmp_path / "gpt-j-6B" / "wikipedia_stats", 1)
    write(tmp_path / "gpt-j-6B" / "wikitext_stats", 1)
    with pytest.raises(UsageError, match=r"wikipedia_stats.*wikitext_stats"):
        imported(tmp_path, model_name=NAME, adapter=adapter)
    chosen = tmp_path / "gpt-j-6B" / "wikitext_stats"
    assert list(imported(chosen, model_name=NAME, adapter=adapter).moment) == [1]


def test_the_file_that_is_asked_for_is_used(
    tmp_path: Path, adapter: ModelAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "gpt-j-6B"
    asked = Asked("wikipedia", "float32", 100000)

    def found() -> Path:
        return find_statistics(tmp_path, model_name=NAME, adapter=adapter, layers=[1], asked=asked)[1]

    small = write(place / "wikipedia_stats", 1, suffix="_1000")
    assert found() == small
    assert (
        f"using {small}, the only statistics there; the hyperparameters ask for wikipedia, 100000 samples, float32"
        in caplog.text
    )
    write(place / "wikitext_stats", 1)
    with pytest.raises(UsageError, match="several") as caught:
        found()
    assert "mom2_n_samples" in str(caught.value.hint)
    caplog.clear()
    exact = write(place / "wikipedia_stats", 1)
    assert found() == exact
    assert not caplog.text
    assert find_statistics(exact.parent, model_name=NAME, adapter=adapter, layers=[1], asked=asked)[1] == exact


def test_damaged_files(tmp_path: Path, adapter: ModelAdapter) -> None:
    def refused(match: str, kind: type[Exception] = IntegrityError) -> None:
        with pytest.raises(kind, match=match):
            imported(path, model_name=NAME, adapter=adapter)

    for count in (0, -3, 1e30, float("inf"), float("nan")):
        path = write(tmp_path, 1, count=count)
        refused("mom2.count")
    lopsided = summed(1)
    lopsided[3, 4] += 1e4
    write(tmp_path, 1, total=lopsided)
    refused("symmetric")
    write(tmp_path, 1, total=summed(1) * float("nan"))
    refused("not finite", EngineError)
    np.savez(path, other=np.zeros(3))
    refused("has no mom2.mom2, mom2.count; it has other")
    path.write_bytes(b"not an archive")
    refused("not a whole")
    whole = write(tmp_path, 1).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("not a whole")
    pickled = np.empty(1, dtype=object)
    pickled[0] = {"never": "loaded"}
    np.savez(path, **{"mom2.mom2": pickled, "mom2.count": np.array(3)})
    refused("not a whole")


def test_a_bit_that_is_flipped_anywhere_ends_in_no_traceback(tmp_path: Path) -> None:
    """Or in other numbers: what a checksum does not cover is read."""
    for save in (np.savez, np.savez_compressed):
        path = tmp_path / "some.npz"
        save(path, **{"mom2.mom2": np.eye(2, dtype=np.float32), "mom2.count": np.array(3)})
        data = path.read_bytes()
        for place in range(len(data) * 8):
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << place % 8
            path.write_bytes(flipped)
            with suppress(IntegrityError, StorageError):
                assert _read(path, ["mom2.mom2", "mom2.count"], lambda _: None).keys() == {"mom2.mom2", "mom2.count"}


def test_a_size_is_compared_before_anything_is_unpacked(tmp_path: Path, adapter: ModelAdapter) -> None:
    """A few bytes of an archive may say that they are terabytes."""
    path = write(tmp_path, 1)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    shape = io.BytesIO()
    np.lib.format.write_array_header_1_0(shape, {"shape": (1 << 20, 1 << 20), "fortran_order": False, "descr": "<f4"})
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, shape.getvalue() if name.startswith("mom2.mom2") else content)
    with pytest.raises(EngineError, match="1048576 × 1048576"):
        imported(path, model_name=NAME, adapter=adapter, layers=[1])


@pytest.mark.parametrize("dtype", ["<U50000000", "<c16", "|V100"])
def test_what_does_not_hold_numbers_is_not_unpacked(tmp_path: Path, adapter: ModelAdapter, dtype: str) -> None:
    path = write(tmp_path, 1)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (128, 128), "fortran_order": False, "descr": dtype})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, header.getvalue() if name.startswith("mom2.mom2") else content)
    with pytest.raises(IntegrityError, match="not of numbers"):
        imported(path, model_name=NAME, adapter=adapter, layers=[1])
