"""python tools/release.py VERSION [--dry-run]: commit, tag, sdist and wheel of a release, checked.

All of it happens in a clone: a release that fails leaves nothing behind. At the end the commit and the tag come back to
this repository, and the files to dist/. Nothing is pushed or uploaded; the last lines say how.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
_VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")
_NAMED = {
    "pyproject.toml": r'^(version = ")[^"]+(")$',
    "memit_vc/__init__.py": r'^(__version__ = ")[^"]+(")$',
    "CITATION.cff": r"^(version: )\S+()$",
}
"""Files that name the version, and what stands before and behind it."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tools/release.py", description=__doc__)
    parser.add_argument("version", help="for example 0.2.0")
    parser.add_argument("--dry-run", action="store_true", help="do it all in the clone, and leave it there unused")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="the repository. Default: this one.")
    given = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="memitvc-release-") as name:
            release(given.root.resolve(), given.version, Path(name) / "clone", dry_run=given.dry_run)
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {' '.join(map(str, error.cmd))}: {(error.stderr or error.stdout or '').strip()}")


def release(root: Path, version: str, clone: Path, *, dry_run: bool) -> None:
    """SystemExit with a plain sentence for what stands in the way."""
    if not _VERSION.fullmatch(version):
        sys.exit(f"error: {version} is no version such as 0.2.0 or 0.2.0rc1")
    if _git(root, "status", "--porcelain", "--untracked-files=no"):
        sys.exit("error: there are changes that were not committed; commit or stash them first")
    if _git(root, "tag", "--list", f"v{version}"):
        sys.exit(f"error: the tag v{version} exists; choose the next version")
    branch = _git(root, "symbolic-ref", "--short", "HEAD")
    _run(["git", "clone", "--quiet", "--branch", branch, "--single-branch", str(root), str(clone)])
    changed = _named(clone, version)
    _git(clone, "add", *changed)
    _git(clone, *_who(root), "commit", "--quiet", "-m", f"release: {version}")
    _git(clone, *_who(root), "tag", "-a", f"v{version}", "-m", f"memit-vc {version}")
    print(f"commit and tag v{version}: {', '.join(changed)}")
    for kind in ("sdist", "wheel"):
        _run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", "dist"], clone)
    made = sorted((clone / "dist").iterdir())
    if any(version not in path.name for path in made) or len(made) != 2:
        sys.exit(f"error: an sdist and a wheel of {version} were to be made, not {[path.name for path in made]}")
    _run([sys.executable, "-m", "twine", "check", "--strict", *map(str, made)])
    for path in made:
        print(f"dist/{path.name}: {path.stat().st_size / 1e6:.1f} MB, twine check passed")
    if dry_run:
        print("dry run: nothing of this was kept")
        return
    # the tag comes last: if the branch has moved meanwhile, nothing is left behind
    _git(root, "fetch", "--quiet", "--no-tags", str(clone), branch)
    _git(root, "merge", "--quiet", "--ff-only", "FETCH_HEAD")
    _git(root, "fetch", "--quiet", str(clone), f"refs/tags/v{version}:refs/tags/v{version}")
    (root / "dist").mkdir(exist_ok=True)
    for path in made:
        shutil.copy2(path, root / "dist")
    uploads = " ".join(f"dist/{path.name}" for path in made)
    print(f"now: git push origin {branch} v{version} && python -m twine upload {uploads}")


def _named(clone: Path, version: str) -> list[str]:
    """Write the version into every file that names it; the changelog's "Unreleased" becomes its section."""
    for name, pattern in _NAMED.items():
        text, times = re.subn(pattern, rf"\g<1>{version}\g<2>", _read(clone / name), flags=re.MULTILINE)
        if times != 1:
            sys.exit(f"error: {name} names the version {times} times, not once")
        (clone / name).write_text(text, encoding="utf-8")
    log = clone / "CHANGELOG.md"
    before, heading, after = _read(log).partition("## Unreleased\n")
    if not heading or not after.partition("\n## ")[0].strip():
        sys.exit("error: CHANGELOG.md has nothing under Unreleased; say what changes for users")
    today = datetime.datetime.now(datetime.timezone.utc).date()
    log.write_text(f"{before}{heading}\n## {version} - {today}\n{after}", encoding="utf-8")
    return [*_NAMED, log.name]


def _who(root: Path) -> list[str]:
    """The repository's own author, whom the clone does not know."""
    return [
        word for key in ("user.name", "user.email") for word in ("-c", f"{key}={_git(root, 'config', '--get', key)}")
    ]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _git(root: Path, *arguments: str) -> str:
    return _run(["git", "-C", str(root), *arguments])


def _run(command: list[str], where: Path | None = None) -> str:
    return subprocess.run(command, cwd=where, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
