"""A state as a directory: the right bytes, loadable, whole or not there, and nobody's files written into."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from memit_vc.errors import BaseChangedError, IntegrityError, StorageError, UnsupportedModelError, UsageError
from memit_vc.numerics.exact.factored import Term
from memit_vc.numerics.exact.materialise import materialise
from memit_vc.numerics.output.checkout import CheckoutResult, checkout, prepare_base
from memit_vc.objects import EditableWeight, StateId
from memit_vc.store import links
from memit_vc.store.checkpoint import Checkpoint
from memit_vc.store.shards import HOT_FILE, ShardedBase
from memit_vc.store.temporaries import temporary_directory
from tests.support.cases import bits
from tests.support.checkpoints import EXTRA_FILES, hash_directory, save, tensor, terms_for, weights_of

CASES = [
    (family, dtype, size)
    for family in ("gpt2", "llama")
    for dtype in ("float32", "bfloat16")
    for size in ("5GB", "20KB")
]


class Case:
    """A base, its shards, and states by seed (None is the base itself)."""

    def __init__(self, directory: Path, family: str, dtype: str, size: str) -> None:
        self.source = save(directory / "model", family, dtype=dtype, shard_size=size)
        self.checkpoint = Checkpoint.find(self.source)
        self.weights = weights_of(self.checkpoint)
        self.base = directory / "repository" / "base"
        prepare_base(self.checkpoint, self.weights, self.base)
        self.hot = ShardedBase.open(self.base).hot

    def terms(self, seed: int | None) -> Callable[[str], list[Term]]:
        by_name = {weight.name: weight for weight in self.weights}
        return lambda name: [] if seed is None else terms_for(by_name[name], seed)

    def checkout(self, seed: int | None, out: Path, **settings: Any) -> CheckoutResult:
        record = {"seed": seed}
        return checkout(self.base, self.weights, self.terms(seed), out, record=record, **settings)

    def expected(self, weight: EditableWeight, seed: int) -> torch.Tensor:
        base = tensor(self.source / self.checkpoint.tensors[weight.name][0], weight.name)
        return materialise(base, terms_for(weight, seed), weight)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"), "llama", "bfloat16", "5GB")


def names_below(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


@pytest.mark.parametrize(("family", "dtype", "size"), CASES)
def test_every_loader_sees_the_state(tmp_path: Path, family: str, dtype: str, size: str) -> None:
    case = Case(tmp_path, family, dtype, size)
    originals = hash_directory(case.source)

    base = case.checkout(None, tmp_path / "base")
    assert hash_directory(base.directory) == originals
    assert {weight.name: originals[weight.name] for weight in case.weights} == base.tensors

    result = case.checkout(7, tmp_path / "edited")
    found = hash_directory(result.directory)
    edited = {weight.name for weight in case.weights}
    assert {name for name in originals if found[name] != originals[name]} == edited
    for weight in case.weights:
        sha = hashlib.sha256(bits(case.expected(weight, 7))).hexdigest()
        assert found[weight.name] == result.tensors[weight.name] == sha

    index = json.loads((result.directory / "model.safetensors.index.json").read_text())
    assert not (result.directory / "model.safetensors").exists()
    seen: dict[str, str] = {}
    for path in result.directory.glob("*.safetensors"):  # a loader that reads every tensor of every shard
        with safe_open(path, framework="pt") as file:
            assert file.metadata()["format"] == "pt"
            for name in file.keys():  # noqa: SIM118
                assert name not in seen
                seen[name] = path.name
    assert seen == index["weight_map"]

    model = AutoModelForCausalLM.from_pretrained(result.directory, dtype="auto")
    state = model.state_dict()
    for weight in case.weights:
        assert bits(state[weight.parameter]) == bits(case.expected(weight, 7))
    plain = AutoModelForCausalLM.from_pretrained(case.source, dtype="auto")
    tokens = torch.tensor([[1, 2, 3, 4]])
    again = AutoModelForCausalLM.from_pretrained(base.directory, dtype="auto")
    assert torch.equal(again(tokens).logits, plain(tokens).logits)
    assert not torch.equal(model(tokens).logits, plain(tokens).logits)

    for name in ("config.json", "generation_config.json", *EXTRA_FILES):
        assert (result.directory / name).read_bytes() == (case.source / name).read_bytes()
    assert json.loads((result.directory / "memitvc.json").read_text()) == {"seed": 7}
    assert "optimizer.pt" not in names_below(result.directory)
    assert "model.gguf" not in names_below(result.directory)


def test_only_the_hot_tensors_are_written(tmp_path: Path) -> None:
    case = Case(tmp_path, "llama", "float32", "20KB")
    result = case.checkout(1, tmp_path / "out")
    hot = sum(case.checkpoint.tensors[weight.name][1].size for weight in case.weights)
    assert hot < result.hot_bytes < hot + 1000
    assert set(result.links.values()) == {"hardlink"}
    base = ShardedBase.open(case.base)
    untouched = [f for f, header in case.checkpoint.files.items() if not set(header.tensors) & set(base.hot)]
    assert untouched
    inodes = {(case.source / file).stat().st_ino for file in untouched}
    assert inodes <= {path.stat().st_ino for path in result.directory.glob("model-cold-*")}
    assert all((result.directory / file).samefile(case.base / file) for file in base.cold)


def test_the_base_is_split_once(tmp_path: Path, case: Case) -> None:
    into = tmp_path / "base"
    into.mkdir()  # an empty directory may be there
    prepare_base(case.checkpoint, case.weights, into)
    inode = (into / HOT_FILE).stat().st_ino
    prepare_base(case.checkpoint, case.weights, into, manifest=case.checkpoint.manifest())
    assert (into / HOT_FILE).stat().st_ino == inode
    prepare_base(case.checkpoint, case.weights[:1], into)
    assert set(ShardedBase.open(into).hot) == {case.weights[0].name}
    assert names_below(tmp_path)[0] == "base"
    assert len(list(tmp_path.iterdir())) == 1


def test_wrong_weights_are_refused_before_anything_is_built(tmp_path: Path, case: Case) -> None:
    weight = case.weights[0]
    for wrong, error in (
        (replace(weight, name="absent.weight"), UnsupportedModelError),
        (replace(weight, orientation="in_out"), IntegrityError),
        (replace(weight, dtype="F32"), IntegrityError),
        (replace(weight, d_in=weight.d_in + 1), IntegrityError),
    ):
        with pytest.raises(error):
            prepare_base(case.checkpoint, [wrong], tmp_path / "base")
    manifest = case.checkpoint.manifest()
    changed = tuple(replace(t, sha256="0" * 64) if t.name == weight.name else t for t in manifest.tensors)
    with pytest.raises(BaseChangedError):
        prepare_base(case.checkpoint, case.weights, tmp_path / "base", manifest=replace(manifest, tensors=changed))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_ours_is_never_touched(tmp_path: Path, case: Case) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("x")
    for again, why in ((False, "not empty"), (True, "is not a checkout")):
        with pytest.raises(UsageError, match=why):
            case.checkout(1, out, replace=again)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError):
        case.checkout(1, tmp_path / "file", replace=True)
    with pytest.raises(UsageError):
        case.checkout(1, case.source, replace=True)
    assert names_below(tmp_path) == ["file", "out", "out/thesis.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    case.checkout(1, empty)
    with pytest.raises(UsageError, match="earlier checkout") as caught:
        case.checkout(1, empty)
    assert "--in-place" in str(caught.value.hint)
    index = empty / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("memitvc_base", "other"))
    with pytest.raises(UsageError, match="another base"):
        case.checkout(1, empty, replace=True)


def test_switching_in_place_spares_a_live_model(tmp_path: Path, case: Case) -> None:
    out = tmp_path / "out"
    case.checkout(1, out)
    with safe_open(out / HOT_FILE, framework="pt") as mapped:
        live = mapped.get_tensor(case.weights[0].name)
        cold = next(iter(ShardedBase.open(case.base).cold))
        (out / cold).unlink()  # a lost link is made good
        result = case.checkout(2, out, replace=True)
        assert bits(live) == bits(case.expected(case.weights[0], 1))
        assert bits(mapped.get_tensor(case.weights[0].name)) == bits(case.expected(case.weights[0], 1))
    assert hash_directory(out) == hash_directory(case.checkout(2, tmp_path / "fresh").directory)
    assert result.links == {cold: "hardlink"}
    assert json.loads((out / "memitvc.json").read_text()) == {"seed": 2}


class Crash(BaseException):
    """Like Ctrl-C: not an Exception."""


def _failing(call: Callable[..., Any], at: int, error: BaseException) -> Callable[..., Any]:
    count = 0

    def wrapper(*arguments: Any, **settings: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            raise error
        return call(*arguments, **settings)

    return wrapper


@pytest.mark.parametrize("name", ["fsync", "rename", "link"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Crash()])
def test_a_failure_at_any_step_leaves_nothing(
    tmp_path: Path, case: Case, name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checkout_there() -> None:
        case.checkout(3, tmp_path / "out")

    def build_there() -> None:
        prepare_base(case.checkpoint, case.weights, tmp_path / "out")

    for action in (checkout_there, build_there):
        step = 0
        while True:
            step += 1
            with monkeypatch.context() as patch:
                patch.setattr(os, name, _failing(getattr(os, name), step, error))
                try:
                    action()
                except (StorageError, Crash):
                    if (tmp_path / "out").exists():  # only the last fsync, of the parent, comes after the rename
                        assert name == "fsync"
                        break
                    assert list(tmp_path.iterdir()) == []
                else:
                    break
        assert step > 1 or (name == "link" and action is build_there)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        action()  # and again, now that it works
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Crash()])
def test_a_failed_switch_leaves_the_old_state(
    tmp_path: Path, case: Case, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.checkout(1, tmp_path / "out")
    before, names = hash_directory(tmp_path / "out"), names_below(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _failing(os.fsync, 1, error))
        with pytest.raises((StorageError, Crash)):
            case.checkout(2, tmp_path / "out", replace=True)
    assert hash_directory(tmp_path / "out") == before
    assert names_below(tmp_path) == names


def test_what_a_killed_checkout_left_is_cleared_by_the_next(tmp_path: Path, case: Case) -> None:
    dead = tmp_path / "out.tmp-abcdefabcdef"
    dead.mkdir()
    with temporary_directory(tmp_path / "out") as alive:
        case.checkout(1, tmp_path / "out")
        assert not dead.exists()
        assert alive.exists()


def test_a_cached_state_is_copied_and_checked(tmp_path: Path, case: Case) -> None:
    cache, state = tmp_path / "cache", StateId("5" * 64)
    first = case.checkout(5, tmp_path / "a", cache=cache, state=state)
    again = case.checkout(5, tmp_path / "b", cache=cache, state=state)
    assert (first.cached, again.cached) == (False, True)
    assert first.tensors == again.tensors
    assert hash_directory(tmp_path / "a") == hash_directory(tmp_path / "b")
    assert not (tmp_path / "b" / HOT_FILE).samefile(tmp_path / "a" / HOT_FILE)
    # the owner of a checkout may write into it, and so into the cached shard
    with (tmp_path / "a" / HOT_FILE).open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"abc")
    third = case.checkout(5, tmp_path / "c", cache=cache, state=state)
    assert not third.cached
    assert hash_directory(tmp_path / "c") == hash_directory(tmp_path / "b")
    assert case.checkout(5, tmp_path / "d", cache=cache, state=state).cached


def test_the_cache_keeps_to_its_limit(tmp_path: Path, case: Case) -> None:
    cache = tmp_path / "cache"
    size = case.checkout(0, tmp_path / "size").hot_bytes
    for seed in range(4):
        settings: dict[str, Any] = {"cache": cache, "state": StateId(f"{seed:064x}"), "cache_limit": 2 * size}
        case.checkout(seed, tmp_path / str(seed), **settings)
    kept = sorted(path.name[:64] for path in (cache / "hot").glob("*.safetensors"))
    assert kept == [f"{2:064x}", f"{3:064x}"]
    assert len(list((cache / "hot").iterdir())) == 4


def test_without_links_everything_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(links, "_reflink", lambda *_: False)
    case = Case(tmp_path, "gpt2", "float32", "20KB")
    result = case.checkout(1, tmp_path / "out")
    assert set(result.links.values()) == {"copy"}
    assert not any(path.is_symlink() for path in result.directory.iterdir())


def test_shards_of_a_hub_snapshot_may_stay_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    source = save(tmp_path / "model", "llama", shard_size="20KB")
    hub = tmp_path / "models--ada--base"
    blobs, snapshot = hub / "blobs", hub / "snapshots"
    blobs.mkdir(parents=True)
    snapshot.mkdir()
    for path in [path for path in source.iterdir() if path.is_file()]:
        (snapshot / path.name).symlink_to(path.rename(blobs / path.name))
    checkpoint = Checkpoint.find(snapshot)
    weights = weights_of(checkpoint)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(links, "_reflink", lambda *_: False)
    prepare_base(checkpoint, weights, tmp_path / "base")
    result = checkout(tmp_path / "base", weights, lambda _: [], tmp_path / "out", record={})
    assert "symlink" in result.links.values()
    assert hash_directory(tmp_path / "out") == hash_directory(snapshot)
    shutil.rmtree(tmp_path / "base")  # a checkout does not lean on the repository
    assert hash_directory(tmp_path / "out") == hash_directory(snapshot)


def test_tied_weights_stay_one_physical_tensor(tmp_path: Path) -> None:
    case = Case(tmp_path, "gpt2", "float32", "5GB")
    assert "lm_head.weight" not in case.checkpoint.tensors
    result = case.checkout(1, tmp_path / "out")
    assert "lm_head.weight" not in hash_directory(result.directory)
    model = AutoModelForCausalLM.from_pretrained(result.directory)
    assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()


def test_a_base_that_is_not_there_or_damaged(tmp_path: Path, case: Case) -> None:
    with pytest.raises(StorageError):
        checkout(tmp_path / "absent", case.weights, case.terms(1), tmp_path / "out", record={})
    broken = tmp_path / "base"
    shutil.copytree(case.base, broken)
    with pytest.raises(IntegrityError, match="editable weights"):
        checkout(broken, case.weights[:1], case.terms(1), tmp_path / "out", record={})
    (broken / HOT_FILE).write_bytes((broken / HOT_FILE).read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="does not hold the base's bytes"):
        checkout(broken, case.weights, case.terms(1), tmp_path / "out", record={})
    (broken / "base.json").write_text('{"format": 2}')
    with pytest.raises(IntegrityError, match="cannot be understood"):
        checkout(broken, case.weights, case.terms(1), tmp_path / "out", record={})
    assert not (tmp_path / "out").exists()


def test_progress_ends_where_it_said(tmp_path: Path, case: Case) -> None:
    seen: dict[str, tuple[int, int]] = {}

    def note(stage: str, done: int, total: int) -> None:
        seen[stage] = (done, total)

    prepare_base(case.checkpoint, case.weights, tmp_path / "base", note)
    case.checkout(1, tmp_path / "out", progress=note)
    assert seen.keys() == {"split base", "write weights"}
    assert all(done == total > 0 for done, total in seen.values())
