"""The release script: a dry run on the whole project, a release of a small one, and what it refuses."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

_SMALL = {
    "pyproject.toml": '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n\n'
    '[project]\nname = "memit-vc"\nversion = "0.1.0"\nreadme = "README.md"\nrequires-python = ">=3.10"\n\n'
    '[tool.hatch.build.targets.wheel]\npackages = ["memit_vc"]\n',
    "README.md": "# Small\n",
    "memit_vc/__init__.py": '__version__ = "0.1.0"\n',
    "CITATION.cff": "version: 0.1.0\n",
    "CHANGELOG.md": "# Changelog\n\n## Unreleased\n\n### Added\n\n- A thing.\n\n## 0.1.0\n\n- The first.\n",
}


@pytest.fixture(autouse=True)
def _tools() -> None:
    for name in ("hatchling", "twine"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def committed(root: Path) -> Path:
    git(root, "init", "--quiet", "-b", "main")
    git(root, "config", "user.name", "Ada")
    git(root, "config", "user.email", "ada@example.org")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "start")
    return root


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for name, text in _SMALL.items():
        path = tmp_path / "small" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return committed(tmp_path / "small")


def release(root: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "release.py", "--root", root, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_a_dry_run_on_this_project_leaves_nothing(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"], check=True, capture_output=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        target = tmp_path / "copy" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, target)
    root = committed(tmp_path / "copy")
    head = git(root, "rev-parse", "HEAD")
    code, said = release(root, "9.9.9", "--dry-run")
    assert code == 0, said
    assert said.count("twine check passed") == 2
    assert "dry run" in said
    assert (git(root, "rev-parse", "HEAD"), git(root, "tag")) == (head, "")
    assert git(root, "status", "--porcelain") == ""
    assert not (root / "dist").exists()


@pytest.mark.timeout(120)
def test_a_release_has_commit_tag_and_files(small: Path) -> None:
    code, said = release(small, "0.2.0")
    assert code == 0, said
    assert git(small, "log", "--format=%s") == "release: 0.2.0\nstart"
    assert git(small, "rev-parse", "v0.2.0^{commit}") == git(small, "rev-parse", "HEAD")
    assert sorted(path.name for path in (small / "dist").iterdir()) == [
        "memit_vc-0.2.0-py3-none-any.whl",
        "memit_vc-0.2.0.tar.gz",
    ]
    assert 'version = "0.2.0"' in (small / "pyproject.toml").read_text()
    changed = (small / "CHANGELOG.md").read_text()
    assert changed.index("## Unreleased") < changed.index("## 0.2.0 - ") < changed.index("- A thing.")
    assert "git push origin main v0.2.0" in said
    assert "twine upload dist/memit_vc-0.2.0-py3-none-any.whl dist/memit_vc-0.2.0.tar.gz" in said


def test_what_stands_in_the_way_is_named(small: Path) -> None:
    git(small, "tag", "v0.3.0")
    assert "the tag v0.3.0 exists" in release(small, "0.3.0")[1]
    assert "no version such as" in release(small, "next")[1]
    (small / "README.md").write_text("# Changed\n")
    assert "not committed" in release(small, "0.2.0")[1]
    (small / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 0.1.0\n\n- The first.\n")
    git(small, "commit", "--quiet", "--all", "-m", "more")
    code, said = release(small, "0.2.0")
    assert code == 1
    assert "nothing under Unreleased" in said
    assert git(small, "tag") == "v0.3.0"
