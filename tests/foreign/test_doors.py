"""Every door for the bytes of others, with one gigabyte of memory.

A refusal needs no more, says what is wrong and where, and leaves nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from memit_vc.cli import main
from memit_vc.remote.container import write_container
from memit_vc.remote.manifest import BASE, MANIFEST, commit_path
from tests.support.paths import ROOT
from tests.support.places import Place, contents

MEMORY = 1 << 30
CHILD = """
import contextlib, io, json, resource, sys
from memit_vc.cli import main
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
for line in json.loads(sys.stdin.read()):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(["--json", *line])
    print(json.dumps([code, said.getvalue()]))
"""
EMPTY = b"{}," * 5_000_000
HUGE = 12 << 30
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 538090408\n"
PAGE = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>\n"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")


def refused(lines: Sequence[Sequence[str | Path]], *, directory: Path) -> list[tuple[int, str, str]]:
    """(exit code, message, hint) of each command line, run in one process that has a gigabyte."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(MEMORY)],
        input=json.dumps([[*map(str, line)] for line in lines]),
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = []
    for line, (code, said) in zip(lines, map(json.loads, done.stdout.splitlines()), strict=True):
        assert code, line
        error = json.loads(said.splitlines()[-1])["error"]
        found.append((code, error["message"], error["hint"]))
    return found


def sparse(path: Path, size: int = HUGE, start: bytes = b"") -> Path:
    """A file whose bytes need no disk."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
    return path


def header(tensors: bytes, about: bytes = b"{}") -> bytes:
    text = b'{"__metadata__":' + about + b"," + tensors + b"}"
    return len(text).to_bytes(8, "little") + text


def test_patch_files_and_edit_files(place: Place, tmp_path: Path) -> None:
    claims = b'"memitvc.json":{"dtype":"U8","shape":[4294967296],"data_offsets":[0,4294967296]}'
    head = header(claims)
    many, pipe = tmp_path / "many.patch", tmp_path / "pipe"
    write_container(many, {MANIFEST: b"[" + EMPTY + b"0]"})
    os.mkfifo(pipe)
    files = {
        "header": header(b'"a":[' + EMPTY + b"0]"),
        "long": (1 << 26).to_bytes(8, "little"),
        "list.json": b"[" + EMPTY + b"{}]",
        "few.json": b"[" + b"{}," * 1_000_000 + b"{}]",
        "lines.csv": b"prompt,subject,target_new\n" + b"a;b\n" * 3_000_000,
        "deep.json": b"[" * 100_000,
        "pointer.json": POINTER,
        "page.json": PAGE,
        "deep.yaml": b"layers: " + b"[" * 50_000,
        "laughs.yaml": b"a: &a [1]\nb: &b [*a,*a]\nlayers: *b\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    sparse(tmp_path / "long", 1 << 28, files["long"])
    sparse(tmp_path / "claims", len(head) + (4 << 30), head)
    edits, before = place.edits([]), contents(place.work)
    Path(edits).write_text('[{"prompt": "A b", "subject": "A", "target_new": "c"}]')
    expected = {
        ("import", many): "has more than 2,097,152 values",
        ("import", tmp_path / "header"): "the header has more than 2,097,152 values",
        ("import", tmp_path / "long"): "at most 33554432 are read",
        ("import", tmp_path / "claims"): "memitvc.json has 4,294,967,296 bytes",
        ("import", pipe): "is a named pipe, not a file",
        ("import", Path("/dev/zero")): "is a device, not a file",
        ("import", tmp_path / "pointer.json"): "is a Git LFS pointer",
        ("commit", Path("/dev/zero")): "is a device, not a file",
        ("commit", sparse(tmp_path / "edits.json")): "has 12,884,901,888 bytes, more than",
        ("commit", tmp_path / "list.json"): "has more than 2,097,152 values",
        ("commit", tmp_path / "few.json"): "1000001 records are wrong",
        ("commit", tmp_path / "lines.csv"): "has more than 2,097,152 values",
        ("commit", tmp_path / "deep.json"): "nested too deeply",
        ("commit", tmp_path / "pointer.json"): "is a Git LFS pointer",
        ("commit", tmp_path / "page.json"): "is a web page",
        ("commit", edits, "--hparams", sparse(tmp_path / "huge.yaml")): "has 12,884,901,888 bytes, more than",
        ("commit", edits, "--hparams", tmp_path / "deep.yaml"): "nested too deeply",
        ("commit", edits, "--hparams", tmp_path / "laughs.yaml"): "has anchors",
    }
    found = refused(list(expected), directory=place.work)
    for (line, wanted), (_, message, hint) in zip(expected.items(), found, strict=True):
        assert wanted in message, (line, message)
        assert hint
    assert contents(place.work) == before


def test_remotes(place: Place, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    for line in (["remote", "add", "origin", str(shared)], ["push"]):
        assert main(["-C", str(place.work), *line]) == 0
    tip = json.loads((shared / MANIFEST).read_bytes())["refs"]["heads/main"]
    record = commit_path(tip)
    kinds = {
        "sparse": lambda path: sparse(path),
        "many": lambda path: path.write_bytes(b"[" + EMPTY + b"0]"),
        "deep": lambda path: path.write_bytes(b"[" * 100_000),
        "pointer": lambda path: path.write_bytes(POINTER),
        "wide": lambda path: path.write_bytes(b'"' + b"a" * ((1 << 26) - 8) + "\N{GRINNING FACE}".encode() + b'"'),
        "pipe": lambda path: os.mkfifo(path),
    }
    lines = []
    for name in (MANIFEST, BASE, record, "hparams.yaml"):
        for kind, write in kinds.items():
            if kind == "wide" and name != record:
                continue
            made = shutil.copytree(shared, tmp_path / f"{kind}-{Path(name).name}")
            (made / name).unlink()
            write(made / name)
            lines.append(("clone", made, tmp_path / "clone", "--base", place.base))
    for _, message, hint in refused(lines, directory=place.work):
        assert "memory" not in message
        assert hint
    assert not (tmp_path / "clone").exists()


def test_bases(place: Place, tmp_path: Path) -> None:
    expected = {
        "config.json": (lambda path: sparse(path), "has 12,884,901,888 bytes, more than"),
        "tokenizer.json": (lambda path: sparse(path), "has 12,884,901,888 bytes, more than"),
        "generation_config.json": (lambda path: path.write_bytes(b"[" * 100_000), "nested too deeply"),
        "notes.txt": (lambda path: path.write_bytes(POINTER), "is a Git LFS pointer"),
        "special_tokens_map.json": (lambda path: path.write_bytes(PAGE), "is a web page"),
        "model.safetensors": (lambda path: path.write_bytes(POINTER), "is a Git LFS pointer"),
        "secret.txt": (lambda path: path.symlink_to("/etc/passwd"), "is a link to /etc/passwd, out of the model's"),
        "additional_chat_templates": (lambda path: path.symlink_to("/etc"), "is a link to /etc/"),
    }
    lines = []
    for name, (write, _) in expected.items():
        base = shutil.copytree(place.base, tmp_path / f"base-{name}")
        if (base / name).exists():
            (base / name).unlink()
        write(base / name)
        lines.append(("init", base, tmp_path / "new"))
    found = refused(lines, directory=tmp_path)
    for (name, (_, wanted)), (_, message, hint) in zip(expected.items(), found, strict=True):
        assert wanted in message, (name, message)
        assert f"base-{name}/{name}" in message
        assert hint
    assert not (tmp_path / "new").exists()
