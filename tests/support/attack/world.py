"""A repository with everything that a verb may need, to be copied for each attack."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memit_vc.cli import main
from memit_vc.objects import CommitId
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.remote.manifest import MANIFEST
from memit_vc.repository import Repository
from tests.support.histories import record
from tests.support.models import FACTS
from tests.support.places import FIRST, SECOND, Place, make_place

__all__ = ["DEAR", "ELSEWHERE", "VERBS", "Reader", "World"]

MADE = "{root}/made"
VERBS: dict[str, list[str]] = {
    "init": ["init", "{base}", MADE],
    "clone": ["clone", "{root}/shared", MADE, "--base", "{base}"],
    "stats": ["stats", "--tokens", "300"],
    "commit": ["commit", "{root}/edits.json"],
    "commit --amend": ["commit", "--amend", "-m", "other words"],
    "commit --patch": ["commit", "--patch", "{kept}"],
    "commit --drop": ["commit", "--patch", "{kept}", "--drop"],
    "eval": ["eval", "HEAD~1"],
    "report": ["report", "-o", MADE],
    "bisect": ["bisect", "start", "HEAD", "HEAD~2"],
    "reproduce": ["reproduce", "HEAD~1"],
    "revert": ["revert", "HEAD~1"],
    "revert --resolve": ["revert", "HEAD~1", "--resolve"],
    "switch": ["switch", "side"],
    "branch": ["branch", "new", "HEAD~1"],
    "branch -m": ["branch", "-m", "side", "renamed"],
    "branch -D": ["branch", "-D", "side"],
    "tag": ["tag", "v2"],
    "tag -d": ["tag", "-d", "v1"],
    "merge": ["merge", "side"],
    "merge --resolve": ["merge", "side", "--resolve"],
    "cherry-pick": ["cherry-pick", "side"],
    "squash": ["squash", "--all"],
    "squash --resolve": ["squash", "--resolve"],
    "squash --compress": ["squash", "--compress", "0.5"],
    "rebase": ["rebase", "side"],
    "undo": ["undo"],
    "redo": ["redo"],
    "op restore": ["op", "restore", "2"],
    "remote add": ["remote", "add", "third", "{root}/third"],
    "push": ["push"],
    "push --tag": ["push", "origin", "--tag", "v3"],
    "fetch": ["fetch", "upstream"],
    "pull": ["pull", "upstream"],
    "import": ["import", "{root}/one.patch"],
    "checkout": ["checkout", "HEAD~1", "-o", MADE],
    "checkout --in-place": ["checkout", "HEAD~2", "--in-place", "{root}/model"],
    "verify": ["verify", "{root}/model"],
    "sign": ["sign", "--key", "{root}/key", "-o", MADE],
    "export --adapter": ["export", "--adapter", MADE],
    "export --merged": ["export", "--merged", MADE],
    "export --patch": ["export", "--patch", MADE],
    "export --bom": ["export", "--bom", MADE],
    "fsck": ["fsck"],
    "fsck --rebuild": ["fsck", "--rebuild"],
    "gc": ["gc", "--grace", "0", "--prune-operations"],
    "upgrade": ["upgrade"],
}
ELSEWHERE = ("init", "clone")
"""Verbs that make a repository of their own."""
DEAR = ("commit", "eval", "reproduce", "rebase", "revert --resolve", "merge --resolve", "squash --resolve", "stats")
"""Verbs that load the model: they get a third of the others' kills."""
VARIES = ("report", "sign", "export --bom")
"""Verbs whose files hold a time or a chance."""


@dataclass(frozen=True)
class World:
    """`root` has the repository `work`, the remotes `shared` (behind it) and `upstream` (ahead of it), the checkout
    `model`, a patch file and a key; the base lies outside.
    """

    root: Path
    base: Path
    kept: str

    @classmethod
    def make(cls, place: Path) -> World:
        """In `place`; seconds, for three commits are computed."""
        steps = {"context_templates": None, "template_length": 2, "n_templates": 1, "v_num_grad_steps": 2}
        made = make_place(place / "first", **steps)
        root = place / "world"
        root.mkdir()
        made.work.rename(root / "work")
        made = Place(base=made.base, work=root / "work", text=made.text)
        _run(root, "commit", made.edits(FIRST), "-m", "one")
        _run(root, "commit", made.edits(SECOND[:1]), "--no-scores", "-m", "two")
        _run(root, "remote", "add", "origin", str(root / "shared"))
        _run(root, "push")
        _run(root, "branch", "side", "HEAD~1")
        _run(root, "switch", "side")
        _run(root, "commit", made.edits(FACTS[4:5]), "--no-scores", "-m", "beside")
        _run(root, "switch", "main")
        with Repository.open(root / "work") as repository:
            record(repository, FACTS[5:6], (1, 2), message="three", seed=1)
            late = record(repository, FACTS[6:7], (1, 2), message="late", seed=2)
            repository.undo()
            patch = repository.patch(late.patches[0])
            repository.keep_patch(patch, FACTS[6:7], parent=repository.head().commit, message="late", details={})
        _run(root, "tag", "v1", "HEAD~1")
        shutil.copytree(root / "work", root / "other")
        with Repository.open(root / "other") as repository:
            record(repository, FACTS[7:8], (1, 2), message="theirs", seed=3)
        _run(root / "other", "remote", "add", "third", str(root / "upstream"), work="")
        _run(root / "other", "push", "third", work="")
        _run(root / "other", "export", "--patch", str(root / "one.patch"), work="")
        shutil.rmtree(root / "other")
        _run(root, "remote", "add", "upstream", str(root / "upstream"))
        _run(root, "checkout", "main", "-o", str(root / "model"))
        _run(root, "tag", "taken-back")
        _run(root, "undo")
        made.edits(SECOND[1:])
        (root / "work" / "edits.json").rename(root / "edits.json")
        _key(root / "key")
        return cls(root, made.base, patch.id)

    def copy(self, root: Path) -> None:
        """The same once more, its remotes as well."""
        shutil.copytree(self.root, root, symlinks=True)
        file = root / "work" / ".memitvc" / "config.toml"
        file.write_text(file.read_text().replace(str(self.root), str(root)))

    def line(self, verb: str, root: Path) -> list[str]:
        """The command line of a verb for a copy."""
        words = [word.format(root=root, base=self.base, kept=self.kept) for word in VERBS[verb]]
        return ["-C", str(root if verb in ELSEWHERE else root / "work"), *words]


@dataclass
class Reader:
    """Looks at copies as somebody does who opens them: with fsck, and without what depends on the time."""

    known: dict[CommitId, list[str]] = field(default_factory=dict)

    def seen(self, root: Path, verb: str) -> dict[str, Any]:
        """Histories, the remote, what was made, the model."""
        made = root / "made"
        found: dict[str, Any] = {"work": self._history(root / "work"), "shared": _published(root / "shared")}
        if verb in ELSEWHERE:
            found["made"] = self._history(made) if (made / ".memitvc").exists() else None
        else:
            found["made"] = _files(made, exact=verb not in VARIES)
        found["model"] = _files(root / "model", exact=True)
        return found

    def _history(self, directory: Path) -> dict[str, Any]:
        with Repository.open(directory) as repository:
            head, bisect = repository.head(), repository.root / "bisect.json"
            return {
                "refs": {name: self._described(repository, commit) for name, commit in repository.refs().items()},
                "head": [head.branch, self._described(repository, head.commit)],
                "operations": [operation.verb for operation in repository.operations()],
                "kept": sorted(repository.kept_patches()),
                "statistics": sorted(repository.statistics()),
                "bisect": bisect.read_text() if bisect.exists() else None,
                "remotes": sorted(repository.config.remotes),
                "problems": fsck(repository)[0],
            }

    def _described(self, repository: Repository, commit: CommitId) -> list[str]:
        if commit not in self.known:
            found = repository.commit(commit)
            self.known[commit] = [repository.state_id(repository.state(commit)), found.kind, found.message]
        return self.known[commit]


def _published(directory: Path) -> dict[str, Any] | None:
    if not (directory / MANIFEST).exists():
        return None
    refs: dict[str, Any] = json.loads((directory / MANIFEST).read_bytes())["refs"]
    return refs


def _files(path: Path, *, exact: bool) -> dict[str, str] | None:
    """SHA-256 of each file, or only the names; None if there is nothing."""
    if not path.exists():
        return None
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    return {
        each.relative_to(path).as_posix(): hashlib.sha256(each.read_bytes()).hexdigest() if exact else ""
        for each in files
    }


def _run(root: Path, *line: str, work: str = "work") -> None:
    assert main([line[0], "-C", str(root / work), *line[1:]]) == 0, line


def _key(path: Path) -> None:
    with suppress(ImportError):
        from cryptography.hazmat.primitives import serialization as pem
        from cryptography.hazmat.primitives.asymmetric import ec

        made = ec.generate_private_key(ec.SECP256R1())
        path.write_bytes(made.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()))
