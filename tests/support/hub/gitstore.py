"""One stored repository: real git objects and refs, large files as git-lfs keeps them, written with git's plumbing.

A branch moves by `git update-ref` with the old value: the compare-and-swap is git's own.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import secrets
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Entry", "GitStore", "MovedError"]

_ATTRIBUTES = "".join(f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in ("safetensors", "bin", "npz", "gz"))
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n")
_ENV = {
    "GIT_AUTHOR_NAME": "loopback",
    "GIT_AUTHOR_EMAIL": "hub@example.org",
    "GIT_COMMITTER_NAME": "loopback",
    "GIT_COMMITTER_EMAIL": "hub@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


class MovedError(Exception):
    """The ref is not where the writer thought it was."""


@dataclass(frozen=True)
class Entry:
    """A file or directory of a tree; `lfs` is (sha256, size) where git holds only a pointer."""

    path: str
    kind: str
    oid: str
    size: int
    lfs: tuple[str, int] | None = None


class GitStore:
    """A non-bare repository whose work tree stays empty, at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> GitStore:
        path.mkdir(parents=True)
        store = cls(path)
        store._git("init", "-q", "-b", "main")
        store.commit("refs/heads/main", None, "initial commit", {".gitattributes": _ATTRIBUTES.encode()})
        return store

    def _git(self, *arguments: str, stdin: bytes = b"", index: Path | None = None) -> bytes:
        environment = {**os.environ, **_ENV}
        if index is not None:
            environment["GIT_INDEX_FILE"] = str(index)
        command = ["git", "-C", str(self.path), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, check=True, env=environment).stdout

    def sha(self, revision: str) -> str | None:
        """The commit of a branch, tag, full ref, HEAD or 40 digits; None where there is none."""
        names = [f"refs/heads/{revision}", f"refs/tags/{revision}"]
        if revision == "HEAD" or revision.startswith("refs/") or re.fullmatch(r"[0-9a-f]{40}", revision):
            names.append(revision)
        asked = "".join(f"{name}^{{commit}}\n" for name in names).encode()
        answers = self._git("cat-file", "--batch-check=%(objectname)", stdin=asked).decode().splitlines()
        return next((answer for answer in answers if re.fullmatch(r"[0-9a-f]{40}", answer)), None)

    def refs(self) -> dict[str, str]:
        lines = self._git("for-each-ref", "--format=%(refname) %(objectname)").decode().splitlines()
        return dict(line.split(" ") for line in lines)

    def parents(self, sha: str) -> list[str]:
        return self._git("rev-list", "--parents", "-n", "1", sha).decode().split()[1:]

    def log(self, sha: str) -> list[tuple[str, str]]:
        """(commit, title), newest first."""
        lines = self._git("log", "--format=%H %s", sha).decode().splitlines()
        return [(line[:40], line[41:]) for line in lines]

    def tree(self, sha: str, under: str = "", *, recursive: bool = True) -> list[Entry]:
        arguments = ["ls-tree", "-l", "-z", *(["-r", "-t"] if recursive else []), sha]
        rows = self._git(*arguments, *([f"{under.rstrip('/')}/"] if under else []))
        found = []
        for row in rows.decode().split("\0")[:-1]:
            about, path = row.split("\t", 1)
            _, kind, oid, size = about.split()
            found.append((path, kind, oid, 0 if size == "-" else int(size)))
        pointers = self._pointers([oid for _, kind, oid, size in found if kind == "blob" and size < 200])
        return [
            Entry(path, "file" if kind == "blob" else "directory", oid, size, pointers.get(oid))
            for path, kind, oid, size in found
        ]

    def entry(self, sha: str, path: str) -> Entry | None:
        return next((entry for entry in self.tree(sha) if entry.path == path), None)

    def _pointers(self, oids: Iterable[str]) -> dict[str, tuple[str, int]]:
        wanted = list(dict.fromkeys(oids))
        data = self._git("cat-file", "--batch", stdin="".join(f"{oid}\n" for oid in wanted).encode())
        found = {}
        for oid in wanted:
            size = int(data[: data.index(b"\n")].split()[2])
            start = data.index(b"\n") + 1
            if match := _POINTER.fullmatch(data[start : start + size]):
                found[oid] = (match[1].decode(), int(match[2]))
            data = data[start + size + 1 :]
        return found

    def blob(self, oid: str) -> bytes:
        return self._git("cat-file", "blob", oid)

    def lfs_path(self, sha256: str) -> Path:
        return self.path / ".git" / "lfs" / "objects" / sha256[:2] / sha256[2:4] / sha256

    def put_lfs(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        target = self.lfs_path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{sha256}.{secrets.token_hex(4)}")
        temporary.write_bytes(data)
        temporary.rename(target)
        return sha256

    def is_lfs_path(self, sha: str | None, path: str) -> bool:
        """Whether .gitattributes sends this path to git-lfs."""
        entry = self.entry(sha, ".gitattributes") if sha else None
        lines = self.blob(entry.oid).decode().splitlines() if entry else []
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
        name = path.rpartition("/")[2]
        return any(fnmatch.fnmatchcase(path if "/" in each else name, each) for each in patterns)

    def commit(
        self,
        ref: str,
        parent: str | None,
        message: str,
        files: Mapping[str, bytes],
        *,
        large: Mapping[str, tuple[str, int]] | None = None,
        deleted: Iterable[str] = (),
        start: str | None = None,
    ) -> str:
        """Make a commit and move `ref` from `parent` (None: it must not exist yet; then `start` is the first parent).

        MovedError where the ref is elsewhere: the commit is then garbage, as in git.
        """
        base = parent or start
        content = dict(files)
        for path, (sha256, size) in (large or {}).items():
            content[path] = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        unmatched = [path for path in large or {} if not self.is_lfs_path(base, path)]
        if unmatched and ".gitattributes" not in content and base:
            entry = self.entry(base, ".gitattributes")
            lines = "".join(f"{path} filter=lfs diff=lfs merge=lfs -text\n" for path in unmatched)
            content[".gitattributes"] = (self.blob(entry.oid) if entry else b"") + lines.encode()
        index = self.path / ".git" / f"index-{secrets.token_hex(8)}"
        try:
            if base:
                self._git("read-tree", base, index=index)
            for path in deleted:
                self._git("rm", "-r", "-q", "--cached", "--ignore-unmatch", "--", path, index=index)
            lines = ""
            for path, data in content.items():
                oid = self._git("hash-object", "-w", "--stdin", stdin=data).decode().strip()
                lines += f"100644 {oid}\t{path}\n"
            self._git("update-index", "--add", "--index-info", stdin=lines.encode(), index=index)
            tree = self._git("write-tree", index=index).decode().strip()
        finally:
            index.unlink(missing_ok=True)
        made = self._git("commit-tree", tree, *(["-p", base] if base else []), "-m", message).decode().strip()
        try:
            self._git("update-ref", ref, made, parent or "0" * 40)
        except subprocess.CalledProcessError as error:
            raise MovedError(error.stderr.decode()) from error
        return made

    def set_ref(self, ref: str, sha: str | None) -> None:
        self._git("update-ref", *(["-d", ref] if sha is None else [ref, sha]))
