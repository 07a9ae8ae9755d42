"""GGUF files: the edited tensors are the checkout's, every other tensor is the base's, by the gguf package's reader."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from memit_vc.errors import EngineError, IntegrityError, MemitVCError, UnsupportedModelError, UsageError
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.export_gguf import export_gguf
from memit_vc.porcelain.setup import init
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from memit_vc.store.checkpoint import Checkpoint
from tests.support.ggufs import Kind, read_all, write_base
from tests.support.models import SENTENCES, facts, hparams_for, load, tiny
from tests.support.opened import Opened

_TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def edited_weights(repository: Repository, out: Path, family: str) -> dict[str, torch.Tensor]:
    """GGUF name → the checkout's weight as [d_out, d_in] float32, of the two edited layers."""
    directory = checkout(repository, "HEAD", out).directory
    found = {name: t for file in Checkpoint.find(directory).files for name, t in load_file(directory / file).items()}
    weights = [weight for weight in repository.weights() if weight.layer in (1, 2)]
    turned = family == "gpt2"
    return {f"blk.{w.layer}.ffn_down.weight": (found[w.name].T if turned else found[w.name]).float() for w in weights}


def naming(state: str, values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "memitvc.state": state, "GGUF.kv_count": values["GGUF.kv_count"] + 1}


@pytest.mark.parametrize(
    ("kind", "family", "stored", "asked", "expected"),
    [
        ("llama", "llama", Kind.Q4_1, None, "F16"),
        ("llama", "llama", Kind.Q4_1, "BF16", "BF16"),
        ("llama", "llama", Kind.F32, None, "F32"),
        ("llama-bf16", "llama", Kind.Q8_0, None, "Q8_0"),
        ("llama-bf16", "llama", Kind.Q4_1, None, "BF16"),
        ("gpt2", "gpt2", Kind.Q4_1, None, "F16"),
        ("gpt2", "gpt2", Kind.F16, "Q8_0", "Q8_0"),
    ],
)
def test_only_the_edited_tensors_are_new(
    opened: Opened, tmp_path: Path, kind: str, family: str, stored: Kind, asked: str | None, expected: str
) -> None:
    repository = opened(kind)
    base = write_base(tmp_path / "base.gguf", Path(repository.config.base), family, stored)
    before = base.read_bytes()
    made = export_gguf(repository, "HEAD", tmp_path / "edited.gguf", base_gguf=base, kind=asked)
    assert base.read_bytes() == before
    wanted = edited_weights(repository, tmp_path / "model", family)
    assert made.tensors == dict.fromkeys(wanted, expected)
    assert made.bytes == made.file.stat().st_size

    (old_values, old), (new_values, new) = read_all(base), read_all(made.file)
    assert new_values == naming(made.state, old_values)
    assert list(new) == list(old)
    for name, (found_kind, shape, data) in new.items():
        if name not in wanted:
            assert (found_kind, shape, data) == old[name], name
            continue
        assert (found_kind, shape) == (expected, old[name][1])
        if expected == "Q8_0":
            assert data == gguf.quantize(wanted[name].numpy(), Kind.Q8_0).tobytes() or kind == "llama-bf16"
            got = gguf.dequantize(np.frombuffer(data, np.uint8).reshape(shape[1], -1), Kind.Q8_0)
            assert np.abs(got - wanted[name].numpy()).max() < wanted[name].abs().max() / 100
        else:
            assert data == wanted[name].to(_TORCH[expected]).contiguous().view(torch.uint8).numpy().tobytes()


def test_many_blocks_give_the_same_bytes(opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = opened("llama")
    base = write_base(tmp_path / "base.gguf", Path(repository.config.base), "llama")
    whole = export_gguf(repository, "HEAD", tmp_path / "whole.gguf", base_gguf=base)
    monkeypatch.setattr("memit_vc.numerics.output.gguf._ENTRIES", 1000)
    monkeypatch.setattr("memit_vc.numerics.output.gguf._CHUNK", 999)
    parts = export_gguf(repository, "HEAD", tmp_path / "parts.gguf", base_gguf=base)
    assert parts.file.read_bytes() == whole.file.read_bytes()


def test_what_is_no_base_is_refused(opened: Opened, tmp_path: Path) -> None:
    repository = opened("llama")
    source = Path(repository.config.base)
    good = write_base(tmp_path / "base.gguf", source, "llama")
    data = good.read_bytes()
    names = gguf.GGUFReader(good)
    place = next(t for t in names.tensors if t.name == "blk.4.ffn_down.weight")

    def changed(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    def in_parts(said: bytes) -> bytes:
        """With one more pair, the number of parts."""
        pairs = int.from_bytes(data[16:24], "little") + 1
        return data[:16] + pairs.to_bytes(8, "little") + (11).to_bytes(8, "little") + b"split.count" + said + data[24:]

    other = bytearray(data)
    other[place.data_offset : place.data_offset + place.n_bytes] = data[
        place.data_offset : place.data_offset + place.n_bytes
    ][::-1]
    (tmp_path / "text.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refusals: list[tuple[Path, type[MemitVCError], str]] = [
        (changed("other.gguf", bytes(other)), IntegrityError, "blk.4.ffn_down.weight does not hold the base's"),
        (changed("cut.gguf", data[:-4000]), IntegrityError, "stands at byte|cut short"),
        (changed("head.gguf", data[:200]), IntegrityError, "cut short"),
        (changed("none.gguf", b"PK\3\4" + data[4:]), IntegrityError, "is not a GGUF file"),
        (changed("old.gguf", data[:4] + b"\1\0\0\0" + data[8:]), UnsupportedModelError, "of version 1"),
        (changed("big.gguf", data[:4] + b"\0\0\0\3" + data[8:]), UnsupportedModelError, "other byte order"),
        (changed("part.gguf", in_parts(b"\2\0\0\0" + b"\3\0")), UnsupportedModelError, "one of 3 parts"),
        (changed("x.gguf", in_parts(b"\x08\0\0\0" + (1).to_bytes(8, "little") + b"x")), IntegrityError, "of 'x' parts"),
        (changed("inf.gguf", in_parts(b"\6\0\0\0" + b"\0\0\x80\x7f")), IntegrityError, "of 'inf' parts"),
        (changed("vocabulary.gguf", data[:8] + bytes(8) + data[16:]), IntegrityError, "has no tensors"),
        (
            changed("many.gguf", data[:8] + b"\0\0\0\1" + bytes(4) + data[16:]),
            IntegrityError,
            "says that it has 16777216",
        ),
        (tmp_path / "text.gguf", IntegrityError, "Git LFS pointer"),
        (tmp_path / "absent.gguf", MemitVCError, "cannot be read"),
        (tmp_path, MemitVCError, "cannot be read"),
    ]
    for path, error, message in refusals:
        with pytest.raises(error, match=message):
            export_gguf(repository, "HEAD", tmp_path / "out.gguf", base_gguf=path)
    with pytest.raises(UsageError, match="needs a GGUF of the base") as needed:
        export_gguf(repository, "HEAD", tmp_path / "out.gguf", base_gguf=None)
    assert "convert_hf_to_gguf.py" in str(needed.value.hint)
    (tmp_path / "link.gguf").symlink_to("missing")
    for there in (good, tmp_path / "link.gguf"):
        with pytest.raises(UsageError, match="exists already"):
            export_gguf(repository, "HEAD", there, base_gguf=good)
    new = tmp_path / "new.gguf"
    with pytest.raises(UsageError, match="exists already"):  # it appears while the file is being written
        export_gguf(repository, "HEAD", new, base_gguf=good, progress=lambda *_: new.write_text("mine"))
    assert (new.read_text(), (tmp_path / "link.gguf").is_symlink()) == ("mine", True)
    assert not list(tmp_path.glob("*.tmp-*"))
    with pytest.raises(UsageError, match="nothing to export"):
        export_gguf(repository, "HEAD~3", tmp_path / "out.gguf", base_gguf=good)
    assert good.read_bytes() == data
    assert not list(tmp_path.glob("out.gguf*"))


@pytest.mark.parametrize("stored", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0])
def test_an_edited_model_is_no_base(opened: Opened, tmp_path: Path, stored: Kind) -> None:
    """Neither a file that was written here, nor one that another tool made of a checkout."""
    repository = opened("llama")
    source = Path(repository.config.base)
    good = write_base(tmp_path / "base.gguf", source, "llama", stored)
    ours = export_gguf(repository, "HEAD~1", tmp_path / "ours.gguf", base_gguf=good)
    with pytest.raises(IntegrityError, match=f"holds the edited state '{ours.state[:10]}'"):
        export_gguf(repository, "HEAD", tmp_path / "out.gguf", base_gguf=ours.file)
    edited = checkout(repository, "HEAD~1", tmp_path / "model").directory
    theirs = write_base(tmp_path / "theirs.gguf", edited, "llama", stored)
    with pytest.raises(IntegrityError, match="does not hold the base's"):
        export_gguf(repository, "HEAD", tmp_path / "out.gguf", base_gguf=theirs)
    assert not list(tmp_path.glob("out.gguf*"))


def test_every_rounding_is_a_bases_and_no_small_edit_is() -> None:
    from memit_vc.numerics.output.gguf import KINDS, _apart

    random = np.random.default_rng(0)
    weight = random.normal(0, 0.02, (4, 2048)).astype(np.float32)
    edit = np.outer(random.normal(size=4), random.normal(size=2048))
    edit *= 0.003 * np.linalg.norm(weight) / np.linalg.norm(edit)
    small = weight.copy()
    small[:, ::2] *= np.float32(2.0**-20)  # F16 has no such numbers, or few bits of them
    small[:2] *= np.float32(2.0**-20)
    large = weight.copy()
    large[0, 0], large[1, 1] = 1e5, -1e5

    def cast(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
        with np.errstate(over="ignore"):
            return gguf.dequantize(gguf.quantize(array, Kind[name]), Kind[name]).astype(np.float32)

    for name, kind in KINDS.items():
        for before in (("F32",), ("BF16",), ("F16",), ("F16", "BF16"), ("BF16", "F16")):
            for base in (weight, small) if "Q8_0" in name or "F16" in before else (weight, small, large):
                stored = base
                for each in (*before, name):
                    stored = cast(stored, each)
                assert _apart(stored, base.astype(np.float64), kind) <= 1, (name, before)
        assert _apart(cast((weight + edit).astype(np.float32), name), weight.astype(np.float64), kind) > 1, name


def test_a_damaged_base_leaves_nothing(opened: Opened, tmp_path: Path) -> None:
    repository = opened("llama")
    base = Path(repository.config.base)
    source = write_base(tmp_path / "base.gguf", base, "llama")
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    path = copy / "model.safetensors"
    checkpoint = Checkpoint.find(copy)
    weight = next(weight for weight in repository.weights() if weight.layer == 1)
    entry = checkpoint.tensors[weight.name][1]
    begin = checkpoint.files[path.name].data_start + entry.begin
    from memit_vc.numerics.output.gguf import replacements, write_gguf
    from memit_vc.porcelain.state import LiveState
    from memit_vc.store.files import write_atomic
    from memit_vc.store.gguf_file import read_gguf_header

    header, state = read_gguf_header(source), LiveState.of_head(repository)
    with path.open("r+b") as file:
        file.seek(begin + 4 * weight.d_in + 1)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    promising = checkpoint.promising(repository.base())
    found = replacements(header, promising, [weight], [weight.name], None)
    with pytest.raises(IntegrityError, match="is not the one that init recorded"):
        write_atomic(
            tmp_path / "out.gguf", write_gguf(header, promising, found, lambda _: state.terms(weight), state=state.id)
        )
    assert not list(tmp_path.glob("out.gguf*"))


def test_what_f16_cannot_hold_is_said() -> None:
    from memit_vc.numerics.output.gguf import Replaced, _typed
    from memit_vc.objects import EditableWeight
    from memit_vc.store.gguf_file import GGUFTensor

    weight = EditableWeight(
        name="w", parameter="w", layer=0, orientation="out_in", d_out=1, d_in=2, dtype="F32", quantum=-30
    )
    with pytest.raises(EngineError) as refused:
        _typed(torch.tensor([[1.0, 1e6]]), Replaced(weight, GGUFTensor("w", (2, 1), 1, 0, 4, 0), "F16"))
    assert refused.value.hint == "Choose --type BF16."


@pytest.mark.parametrize(
    ("family", "dtype", "stored", "asked", "expected"),
    [
        ("qwen3_moe", "float32", Kind.F16, None, "F16"),
        ("qwen3_moe", "float32", Kind.Q4_1, None, "F16"),
        ("qwen3_moe", "float32", Kind.F16, "BF16", "BF16"),
        ("gpt_oss", "bfloat16", Kind.BF16, None, "BF16"),
        ("gpt_oss", "bfloat16", Kind.Q4_1, None, "BF16"),
    ],
)
def test_experts_of_a_mixture(
    family: str, dtype: str, stored: Kind, asked: str | None, expected: str, tmp_path: Path
) -> None:
    """The file's tensor of all experts is that of the converted checkout; one without an edited expert is copied."""
    base = tiny(family, tmp_path / "base", dtype=dtype, intermediate_size=32, moe_intermediate_size=32)
    values = hparams_for(load(base), v_num_grad_steps=20, v_lr=0.2, retries=0, device="cpu")
    (tmp_path / "hparams.yaml").write_text(values.to_yaml(), encoding="utf-8")
    (tmp_path / "text.txt").write_text("\n\n".join(SENTENCES), encoding="utf-8")
    work = tmp_path / "work"
    init(str(base), directory=work, hparams=tmp_path / "hparams.yaml", corpus=str(tmp_path / "text.txt"))
    with Repository.open(work) as repository:
        commit_facts(repository, facts(2), tokens=400)
        touched = {weight.layer for weight in LiveState.of_head(repository).touched}
        before = write_base(tmp_path / "base.gguf", base, family, stored)
        made = export_gguf(repository, "HEAD", tmp_path / "edited.gguf", base_gguf=before, kind=asked)
        assert made.tensors == {f"blk.{layer}.ffn_down_exps.weight": expected for layer in touched}
        out = checkout(repository, "HEAD", tmp_path / "out").directory
        _, wanted = read_all(write_base(tmp_path / "wanted.gguf", out, family, Kind[expected]))
        (old_values, old), (new_values, new) = read_all(before), read_all(made.file)
        assert new_values == naming(made.state, old_values)
        assert list(new) == list(old)
        for name, found in new.items():
            assert found == (wanted if name in made.tensors else old)[name], name
        assert any(new[name][2] != old[name][2] for name in made.tensors)
        assert fsck(repository) == ([], 0)

        mixed = write_base(tmp_path / "other.gguf", tiny(family, tmp_path / "other", dtype=dtype, seed=1,
            intermediate_size=32, moe_intermediate_size=32), family, stored)  # fmt: skip
        with pytest.raises(IntegrityError, match="does not hold the base's"):
            export_gguf(repository, "HEAD", tmp_path / "none.gguf", base_gguf=mixed)
