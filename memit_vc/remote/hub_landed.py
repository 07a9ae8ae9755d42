"""Whether a commit whose answer was lost has been made: what the Hub holds says it, not what it answered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memit_vc.remote.protocol import Change, RemoteFile
from memit_vc.store.files import file_digest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["CopySource", "landed", "listed", "same_content"]


@dataclass(frozen=True)
class CopySource:
    """A large file of another repository on the Hub."""

    repo_id: str
    revision: str
    path: str
    size: int
    sha256: str


def landed(api: HfApi, repo_id: str, branch: str | None, parent: str, change: Change) -> str | None:
    """The commit on `branch` (None: the head of any pull request) that came right after `parent` and made `change`.

    Others may have pushed on top of it since. None where there is no such commit.
    """
    if branch is not None:
        tips = [branch]
    else:
        refs = api.list_repo_refs(repo_id, include_pull_requests=True)
        tips = [ref.ref for ref in refs.pull_requests or ()]
    for tip in tips:
        log = [commit.commit_id for commit in api.list_repo_commits(repo_id, revision=tip)]
        if parent in log and (place := log.index(parent)) and _holds(api, repo_id, log[place - 1], change):
            return log[place - 1]
    return None


def _holds(api: HfApi, repo_id: str, commit: str, change: Change) -> bool:
    files = listed(api, repo_id, commit)
    if not change.deletes.isdisjoint(files):
        return False
    copies: Mapping[str, CopySource] = getattr(change, "copies", {})
    return all(path in files and same_content(files[path], data) for path, data in change.adds.items()) and all(
        path in files and files[path].sha256 == source.sha256 for path, source in copies.items()
    )


def listed(api: HfApi, repo_id: str, revision: str) -> dict[str, RemoteFile]:
    """Every file at a revision, as far as the Hub describes it."""
    from huggingface_hub import RepoFile

    tree = api.list_repo_tree(repo_id, revision=revision, recursive=True)
    files = [entry for entry in tree if isinstance(entry, RepoFile)]
    return {
        file.path: RemoteFile(file.size, file.lfs.sha256 if file.lfs else None, None if file.lfs else file.blob_id)
        for file in files
    }


def same_content(file: RemoteFile, data: bytes | Path) -> bool:
    """Whether the Hub's description is that of these bytes."""
    if file.size != (len(data) if isinstance(data, bytes) else data.stat().st_size):
        return False
    if file.sha256 is not None:
        return file.sha256 == (hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else file_digest(data))
    content = data if isinstance(data, bytes) else data.read_bytes()
    return file.git == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
