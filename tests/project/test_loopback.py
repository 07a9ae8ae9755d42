"""The loopback Hub itself, judged by the unmodified client, by git and by git-lfs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from tests.support.hub.faults import Fault
from tests.support.hub.loopback import Loopback

NAME = "ada/facts"
LARGE = bytes(range(256)) * 400


def _api(hub: Loopback, user: str = "ada") -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=f"hf_{user}")


def _commit(api: HfApi, files: dict[str, bytes], **more: object) -> str:
    made = api.create_commit(
        NAME, [CommitOperationAdd(path, data) for path, data in files.items()], commit_message="m", **more
    )
    return str(made.oid)


def test_files_come_back(client: Loopback, tmp_path: Path) -> None:
    api = _api(client)
    assert api.whoami()["name"] == "ada"
    api.create_repo(NAME, private=True)
    api.create_repo(NAME, exist_ok=True)
    first = _commit(api, {"a/small.json": b"{}\n", "objects/ab/cdef": LARGE, "w.safetensors": b"tensors"})
    second = _commit(api, {"a/small.json": b"[]\n"}, parent_commit=first)
    assert sorted(api.list_repo_files(NAME)) == [".gitattributes", "a/small.json", "objects/ab/cdef", "w.safetensors"]
    for revision, small in ((first, b"{}\n"), (second, b"[]\n"), ("main", b"[]\n")):
        for path, data in (("a/small.json", small), ("objects/ab/cdef", LARGE), ("w.safetensors", b"tensors")):
            got = api.hf_hub_download(NAME, path, revision=revision, cache_dir=tmp_path / "cache")
            assert Path(got).read_bytes() == data
    api.snapshot_download(NAME, local_dir=tmp_path / "all")
    assert (tmp_path / "all" / "objects/ab/cdef").read_bytes() == LARGE
    assert api.model_info(NAME).private is True
    assert [commit.commit_id for commit in api.list_repo_commits(NAME)][:2] == [second, first]
    assert not any(each.authorized for each in client.storage.requests)
    api.create_commit(
        NAME,
        [CommitOperationDelete("w.safetensors"), CommitOperationCopy("objects/ab/cdef", "copy")],
        commit_message="m",
    )
    assert sorted(api.list_repo_files(NAME)) == [".gitattributes", "a/small.json", "copy", "objects/ab/cdef"]
    assert api.verify_repo_checksums(NAME, local_dir=tmp_path / "all", revision=second).mismatches == []


def test_lists_and_raw_files(client: Loopback) -> None:
    web = get_session()  # the client's own, without its token
    client.add(NAME, {"a.json": b"{}", "w.safetensors": LARGE})
    client.add("bob/other", {"a.json": b"{}"})
    client.add("bob/secret", private=True)
    api = _api(client)
    assert {model.id for model in api.list_models()} == {NAME, "bob/other"}
    assert [model.id for model in api.list_models(author="ada")] == [NAME]
    assert api.model_info(NAME, revision="HEAD").sha == api.model_info(NAME).sha
    if hasattr(api, "list_user_repos"):
        assert [repo.id for repo in api.list_user_repos()] == [NAME]
    asked = {"paths": ["a.json"], "expand": False}
    paths = web.post(f"{client.endpoint}/api/models/{NAME}/paths-info/main", json=asked)  # as JavaScript's client
    assert [row["path"] for row in paths.json()] == ["a.json"]
    head = web.head(f"{client.endpoint}/{NAME}/raw/main/w.safetensors")
    assert (head.status_code, int(head.headers["Content-Length"])) == (200, 131)
    assert web.get(f"{client.endpoint}/{NAME}/raw/main/b.json").status_code == 404


def test_only_one_of_two_commits_on_a_parent_is_taken(client: Loopback) -> None:
    api = _api(client)
    api.create_repo(NAME)
    parent = _commit(api, {"a": b"1"})
    _commit(api, {"a": b"2"}, parent_commit=parent)
    with pytest.raises(HfHubHTTPError) as caught:
        _commit(api, {"a": b"3"}, parent_commit=parent)
    assert caught.value.response.status_code == 412
    made = api.create_commit(
        NAME, [CommitOperationAdd("a", b"4")], commit_message="m", parent_commit=parent, create_pr=True
    )
    assert made.pr_revision == "refs/pr/1"
    assert client.repos[NAME].store.parents(made.oid) == [parent]


def test_listings_come_in_pages(client: Loopback) -> None:
    client.page = 3
    client.add(NAME, {f"d/{n}": b"x%d" % n for n in range(10)})
    assert len(_api(client).list_repo_files(NAME)) == 11


def test_branches_and_tags(client: Loopback) -> None:
    api = _api(client)
    head = client.add(NAME, {"a": b"1"}).store.sha("main")
    api.create_branch(NAME, branch="next")
    api.create_tag(NAME, tag="v1", revision="next")
    with pytest.raises(HfHubHTTPError):
        api.create_tag(NAME, tag="v1")
    refs = api.list_repo_refs(NAME)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": head, "next": head}
    assert [ref.name for ref in refs.tags] == ["v1"]
    api.delete_tag(NAME, tag="v1")
    assert api.list_repo_refs(NAME).tags == []


def test_refusals(client: Loopback, tmp_path: Path) -> None:
    repo = client.add(NAME, {"a": b"1"})
    with pytest.raises(RevisionNotFoundError):
        _api(client).model_info(NAME, revision="nowhere")
    with pytest.raises(RemoteEntryNotFoundError):
        _api(client).hf_hub_download(NAME, "b", cache_dir=tmp_path)
    with pytest.raises(HfHubHTTPError, match="403"):
        _commit(_api(client, "reader"), {"a": b"2"})
    with pytest.raises(HfHubHTTPError, match="namespace"):
        _api(client, "bob").create_repo("ada/other")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        _api(client, "wrong").whoami()
    repo.gated = True
    with pytest.raises(GatedRepoError):
        _api(client, "bob").hf_hub_download(NAME, "a", cache_dir=tmp_path)
    repo.private = True
    with pytest.raises(RepositoryNotFoundError):
        _api(client, "bob").model_info(NAME)


def test_faults_strike_once(client: Loopback) -> None:
    client.add(NAME, {"a": b"1"})
    client.faults.add(Fault("GET /api/models/ada/facts$", "status", 500))
    client.faults.add(Fault("GET /api/models/ada/facts$", "lost", skip=1))
    api = _api(client)
    with pytest.raises(HfHubHTTPError, match="500"):
        api.model_info(NAME)
    assert api.model_info(NAME).id == NAME
    with pytest.raises(Exception, match="disconnected"):
        api.model_info(NAME)


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="needs git-lfs")
def test_git_accepts_what_is_stored(client: Loopback, tmp_path: Path) -> None:
    api = _api(client)
    api.create_repo(NAME)
    _commit(api, {"objects/ab/cdef": LARGE, "README.md": b"# facts\n"})
    stored = client.repos[NAME].store.path
    check_with_git(stored, tmp_path / "clone")
    assert (tmp_path / "clone" / "objects/ab/cdef").read_bytes() == LARGE


def check_with_git(stored: Path, clone: Path) -> None:
    """`git fsck`, `git lfs fsck` and `git clone` with git-lfs; CalledProcessError where one of them complains."""
    lfs = [word for key in ("smudge", "clean") for word in ("-c", f"filter.lfs.{key}=git-lfs {key} -- %f")]
    for command in (
        ["git", "-C", str(stored), "fsck", "--strict", "--no-dangling"],
        ["git", "-C", str(stored), "lfs", "fsck"],
        ["git", *lfs, "clone", "-q", str(stored), str(clone)],
    ):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr + made.stdout
