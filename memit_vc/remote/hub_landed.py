"""Whether a commit was made although the Hub's answer was lost: the files that the Hub holds tell."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from memit_vc.remote.protocol import Change, RemoteFile, content_digest, content_size

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class CopySource:
    """A large file of another repository on the Hub."""

    repo_id: str
    revision: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Landed:
    """A commit of ours that the Hub has; `pull_request` is the address of the pull request that it became, if any."""

    commit: str
    pull_request: str | None = None


def landed(api: HfApi, repo_id: str, branch: str | None, parent: str, change: Change) -> Landed | None:
    """The commit on `branch` (None: the head of any pull request) that came right after `parent` and made `change`.

    Others may have pushed on top of it since. None if there is no such commit.
    """
    if branch is not None:
        commit = _after(api, repo_id, branch, parent)
        return Landed(commit) if commit is not None and _holds(api, repo_id, commit, change) else None
    refs = api.list_repo_refs(repo_id, include_pull_requests=True)
    proposals = {int(ref.ref.rpartition("/")[2]): ref for ref in refs.pull_requests or ()}
    for number in sorted(proposals, reverse=True):  # ours is among the newest
        ref = proposals[number]
        if not _holds(api, repo_id, ref.target_commit, change):
            continue
        if _after(api, repo_id, ref.ref, parent) == ref.target_commit:
            return Landed(ref.target_commit, f"{api.endpoint}/{repo_id}/discussions/{number}")
    return None


def _after(api: HfApi, repo_id: str, revision: str, parent: str) -> str | None:
    """The commit of a branch that came right after `parent`; older commits are not read."""
    from huggingface_hub import utils

    names: Any = utils  # that every version has and that none lists in an __all__
    headers = names.build_hf_headers(token=api.token, library_name="memit-vc")
    path = f"{api.endpoint}/api/models/{repo_id}/commits/{quote(revision, safe='')}"
    after = None
    for item in names.paginate(path, params={}, headers=headers):
        if item["id"] == parent:
            return after
        after = str(item["id"])
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
    if file.size != content_size(data):
        return False
    if file.sha256 is not None:
        return file.sha256 == content_digest(data)
    return file.git == git_name(data if isinstance(data, bytes) else data.read_bytes())


def git_name(content: bytes) -> str:
    """The name that git gives to a small file, as the Hub does."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
