"""What counts as a checkpoint, what of it is carried over, and how a changed base is seen."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from memit_vc.errors import IntegrityError, StorageError, UnsupportedModelError
from memit_vc.store.checkpoint import Checkpoint
from tests.support.checkpoints import EXTRA_FILES, hash_directory, save


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("m") / "sharded", "llama", shard_size="10KB")


@pytest.fixture
def copy(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "copy"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_hashes_do_not_depend_on_sharding(tmp_path: Path, dtype: str) -> None:
    one = Checkpoint.find(save(tmp_path / "one", "gpt2", dtype=dtype))
    many = Checkpoint.find(save(tmp_path / "many", "gpt2", dtype=dtype, shard_size="10KB"))
    assert len(one.files) == 1
    assert len(many.files) > 2
    seen: list[tuple[int, int]] = []
    assert one.manifest().id == many.manifest(lambda _, done, total: seen.append((done, total))).id
    assert seen[-1][0] == seen[-1][1] > 0
    assert hash_directory(tmp_path / "one") == hash_directory(tmp_path / "many")
    name, record = "transformer.h.0.mlp.c_proj.weight", hash_directory(tmp_path / "one")
    assert record[name] == hashlib.sha256(b"".join(many.chunks(name))).hexdigest()


def test_other_files_are_what_a_copy_needs(sharded: Path) -> None:
    assert set(Checkpoint.find(sharded).other_files) == {"config.json", "generation_config.json", *EXTRA_FILES}
    assert Checkpoint.find(sharded).file_hashes()["chat_template.jinja"] == (
        hashlib.sha256(EXTRA_FILES["chat_template.jinja"].encode()).hexdigest()
    )


def test_directories_that_hold_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"neither model\.safetensors nor"):
        Checkpoint.find(tmp_path)
    with pytest.raises(StorageError, match="not a directory"):
        Checkpoint.find(tmp_path / "absent")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match=r"pytorch_model\.bin") as caught:
        Checkpoint.find(tmp_path)
    assert "save_pretrained" in str(caught.value.hint)


def _edit_index(directory: Path, **changes: str | None) -> None:
    path = directory / "model.safetensors.index.json"
    record = json.loads(path.read_text())
    for name, file in changes.items():
        key = name.replace("__", ".")
        if file is None:
            del record["weight_map"][key]
        else:
            record["weight_map"][key] = file
    path.write_text(json.dumps(record))


def test_an_index_that_its_files_contradict(copy: Path) -> None:
    shards = sorted(path.name for path in copy.glob("*.safetensors"))
    _edit_index(copy, new__tensor=shards[0])
    with pytest.raises(IntegrityError, match=r"'new\.tensor' in .* which does not contain it"):
        Checkpoint.find(copy)
    _edit_index(copy, new__tensor="../elsewhere.safetensors")
    with pytest.raises(IntegrityError, match="not a safetensors file in the same directory"):
        Checkpoint.find(copy)
    _edit_index(copy, new__tensor=None)
    Checkpoint.find(copy)
    (copy / shards[0]).unlink()
    with pytest.raises(StorageError, match=shards[0]):
        Checkpoint.find(copy)
    for text in ("[", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'):
        (copy / "model.safetensors.index.json").write_text(text)
        with pytest.raises(IntegrityError, match=r"index\.json"):
            Checkpoint.find(copy)


def test_a_tensor_in_two_files_is_refused(copy: Path) -> None:
    first, second = sorted(copy.glob("*.safetensors"))[:2]
    both = load_file(second) | load_file(first)
    save_file(both, second, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=f"is both in {first.name} and in {second.name}"):
        Checkpoint.find(copy)


def test_a_changed_base_is_seen_and_a_touched_one_is_not(copy: Path) -> None:
    checkpoint = Checkpoint.find(copy)
    manifest, files, recorded = checkpoint.manifest(), checkpoint.file_hashes(), checkpoint.fingerprints()
    assert checkpoint.differences(manifest, files, recorded=recorded) == []
    assert set(checkpoint.unchanged(recorded)) == {*checkpoint.files, *checkpoint.other_files}

    shard = sorted(copy.glob("*.safetensors"))[1]
    os.utime(shard, ns=(1, 1))
    assert shard.name not in checkpoint.unchanged(recorded)
    assert checkpoint.differences(manifest, files, recorded=recorded) == []

    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    (copy / "config.json").write_text("{}")
    (copy / "chat_template.jinja").unlink()
    problems = Checkpoint.find(copy).differences(manifest, files, recorded=recorded)
    assert len(problems) == 3
    assert shard.name in problems[0]
    assert problems[1:] == ["chat_template.jinja is gone", "config.json has other bytes"]
    assert len(Checkpoint.find(copy).differences(manifest, files)) == 3


def test_a_hub_snapshot_of_symlinks_is_a_checkpoint(sharded: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in sharded.iterdir():
        if path.is_file():
            shutil.copy(path, blobs / hashlib.sha256(path.name.encode()).hexdigest())
            (snapshot / path.name).symlink_to(blobs / hashlib.sha256(path.name.encode()).hexdigest())
    assert hash_directory(snapshot) == hash_directory(sharded)
    assert "config.json" in Checkpoint.find(snapshot).other_files


def test_a_config_that_names_other_weights_is_refused(copy: Path) -> None:
    """transformers loads these before the ones that were looked at."""
    config = copy / "config.json"
    whole = config.read_text().rstrip().removesuffix("}")
    found = Checkpoint.find(copy)
    save_file(load_file(copy / next(iter(found.files))), copy / "other.safetensors")
    said = '"transformers_weights": "other.safetensors"'
    for last in (said, f'"transformers_weights": null, {said}'):  # of two values, the last one counts
        config.write_text(f"{whole}, {last}}}")
        with pytest.raises(UnsupportedModelError, match=r"the weights are in 'other\.safetensors'"):
            Checkpoint.find(copy)
    config.write_text(f'{whole}, {said}, "transformers_weights": null}}')
    assert Checkpoint.find(copy).manifest() == found.manifest()
    config.write_text(" " * (1 << 21) + f"{whole}, {said}}}")
    with pytest.raises(UnsupportedModelError, match=r"config\.json"):
        Checkpoint.find(copy)


def test_an_adapter_beside_the_weights_is_no_part_of_the_checkpoint(copy: Path) -> None:
    """transformers loads both if PEFT is installed, so hashes of the weights alone would prove nothing."""
    Checkpoint.find(copy)
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="has an adapter"):
        Checkpoint.find(copy)
