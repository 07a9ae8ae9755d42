"""What a shell completes: asked as the scripts for bash, zsh and fish ask, and once by a real bash."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from memit_vc.cli import main
from memit_vc.cli.main import COMMANDS
from memit_vc.objects import RefUpdate
from memit_vc.porcelain.sharing.remotes import add_remote
from memit_vc.repository import Repository
from tests.support.places import Place

Typed: TypeAlias = Callable[..., list[tuple[str, str]]]


@pytest.fixture
def repository(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """With branches, a tag, a remote and a tracking branch."""
    names = ("heads/feature-x", "heads/feature-y", "tags/v1", "remotes/origin/main")
    with Repository.open(place.work) as opened:
        head = opened.head().commit
        opened.publish(verb="test", description="test", refs=[RefUpdate(name, None, head) for name in names])
        add_remote(opened, "origin", "shared", directory=place.work)
    monkeypatch.chdir(place.work)
    return place


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    """`typed("switch", "fe")`: (kind, value) of what is offered for the last word."""

    def offered(*words: str, shell: str = "bash") -> list[tuple[str, str]]:
        capsys.readouterr()
        with monkeypatch.context() as patched:
            patched.setenv("_MEMITVC_COMPLETE", f"{shell}_complete")
            patched.setenv("COMP_WORDS", " ".join(["memitvc", *words]))
            patched.setenv("COMP_CWORD", words[-1] if shell == "fish" else str(len(words)))
            with pytest.raises(SystemExit):
                main([])
        lines = [line for line in capsys.readouterr().out.splitlines() if line]
        if shell == "zsh":  # kind, value and remark, a line each
            return list(zip(lines[::3], lines[1::3], strict=True))
        pairs = [line.split("\t")[0].split(",", 1) for line in lines]
        return [(kind, value) for kind, value in pairs]

    return offered


def plain(*values: str) -> list[tuple[str, str]]:
    return [("plain", value) for value in values]


def test_names_are_completed(repository: Place, typed: Typed) -> None:
    with Repository.open(repository.work) as opened:
        head = opened.head().commit
    for words, expected in (
        (("switch", "fe"), plain("feature-x", "feature-y")),
        (("branch", "-d", "feature-y"), plain("feature-y")),
        (("tag", "-d", "v"), plain("v1")),
        (("push", "or"), plain("origin")),
        (("pull", "origin", "m"), plain("main")),
        (("remote", "remove", "o"), plain("origin")),
        (("show", "H"), plain("HEAD")),
        (("show", "o"), plain("origin/main")),
        (("diff", "v1..fe"), plain("v1..feature-x", "v1..feature-y")),
        (("cherry-pick", "v1", "ma"), plain("main")),
        (("revert", head[:6]), plain(head[:10])),
        (("facts", "--commit", "v"), plain("v1")),
        (("export", "--dtype", "b"), plain("bfloat16")),
        (("commit", "--hparams", "smollm2-1.7"), plain("smollm2-1.7b")),
        (("bisect", "start", "v"), plain("v1")),
        (("re",), plain(*[name for name in COMMANDS if name.startswith("re")])),
        (("merge", "--no-f"), plain("--no-ff")),
    ):
        for shell in ("bash", "zsh", "fish"):
            assert typed(*words, shell=shell) == expected, (shell, words)


def test_a_name_that_a_shell_would_run_is_not_offered(repository: Place, typed: Typed) -> None:
    """Whoever pushed the branch chose its name; bash runs the line as it was completed."""
    odd = ("a`id`", "a;id", "a&id", "a|id", "a'id", 'a"id', "a<id", "a#id", "a!id")
    with Repository.open(repository.work) as opened:
        head = opened.head().commit
        names = [*(f"remotes/origin/{name}" for name in odd), "heads/added/größer-1.0_x"]
        opened.publish(verb="test", description="test", refs=[RefUpdate(name, None, head) for name in names])
    for shell in ("bash", "zsh", "fish"):
        assert typed("show", "origin/a", shell=shell) == []
        assert typed("show", "HEAD..origin/", shell=shell) == plain("HEAD..origin/main")
        assert typed("show", "added", shell=shell) == plain("added/größer-1.0_x")


def test_files_are_left_to_the_shell(repository: Place, typed: Typed) -> None:
    for words, kind in (
        (("commit", "j_f"), "file"),
        (("init", "m"), "dir"),
        (("clone", "sh"), "dir"),
        (("remote", "add", "x", "sh"), "dir"),
        (("stats", "--import", "x"), "file"),
        (("init", "--health", "x"), "file"),
        (("init", "--corpus", "x"), "file"),
        (("checkout", "-o", "x"), "file"),
        (("commit", "--hparams", "./x"), "file"),
    ):
        assert typed(*words) == [(kind, words[-1])], words


def test_the_directory_of_the_line_is_heeded(
    repository: Place, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    work = os.path.relpath(repository.work, tmp_path)
    assert typed("-C", work, "switch", "feature-x") == plain("feature-x")
    assert typed("switch", "-C", str(repository.work), "feature-x") == plain("feature-x")
    assert typed("switch", "f") == []


def test_a_damaged_repository_completes_to_nothing(tmp_path: Path, typed: Typed) -> None:
    (tmp_path / ".memitvc").mkdir()
    (tmp_path / ".memitvc" / "meta.db").write_bytes(b"x" * 4096)
    (tmp_path / ".memitvc" / "config.toml").write_text("[")
    assert typed("-C", str(tmp_path), "switch", "m") == []
    assert typed("-C", str(tmp_path), "push", "o") == []


def test_a_tab_loads_no_library(repository: Place) -> None:
    code = (
        "import sys\nfrom memit_vc.cli import main\ntry: main([])\nexcept SystemExit: pass\n"
        "print(sorted({'sqlalchemy', 'torch', 'numpy', 'rich', 'huggingface_hub'} & set(sys.modules)))"
    )
    environment = {"COMP_WORDS": "memitvc switch fe", "COMP_CWORD": "2", "_MEMITVC_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    assert done.stdout.splitlines() == ["plain,feature-x", "plain,feature-y", "[]"]


def test_bash_itself(repository: Place, tmp_path: Path) -> None:
    script = tmp_path / "bin" / "memitvc"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m memit_vc "$@"\n')
    script.chmod(0o755)
    code = """
    eval "$(_MEMITVC_COMPLETE=bash_source memitvc)" || exit
    COMP_WORDS=(memitvc switch feat) COMP_CWORD=2
    _memitvc_completion memitvc
    echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "feature-x feature-y\n"
