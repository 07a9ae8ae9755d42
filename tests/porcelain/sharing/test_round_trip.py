"""Push from one repository, clone into another: the same commits, the same weights, by way of real git and git-lfs."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from memit_vc.errors import MemitVCError
from memit_vc.objects import Fact
from memit_vc.porcelain.output.verify import state_hashes
from memit_vc.porcelain.sharing.clone import clone
from memit_vc.porcelain.sharing.fetch import fetch
from memit_vc.porcelain.sharing.pull import pull
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.sharing.remotes import add_remote
from memit_vc.porcelain.state import LiveState
from memit_vc.remote.card import BEGIN
from memit_vc.repository import Repository
from tests.project.test_loopback import check_with_git
from tests.support.histories import history, record
from tests.support.hub.faults import Fault
from tests.support.hub.loopback import Loopback
from tests.support.hub.run import memitvc, started
from tests.support.models import FACTS
from tests.support.synthetic import travelling

NAME = "ada/facts"
URL = f"hf://{NAME}"
NEW = (FACTS[7], Fact(prompt="The river Orra flows through", subject="Orra", target="Norland"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a base, and `work` on it with three commits. Not to be changed."""
    root = tmp_path_factory.mktemp("made")
    history(root, "llama")
    return root


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "work", tmp_path / "work")
    with Repository.open(tmp_path / "work") as repository:
        add_remote(repository, "origin", URL, directory=tmp_path)
    return tmp_path / "work"


def same(one: Path, other: Path) -> None:
    """The same history and weights; both are whole."""
    with Repository.open(one) as a, Repository.open(other) as b:
        assert a.fsck() == b.fsck() == []
        assert a.head() == b.head()  # a commit's id is that of all that came before it
        for commit in [commit.id for commit in a.log([a.head().commit])]:
            assert a.live_facts(commit) == b.live_facts(commit)
            assert state_hashes(LiveState.at(a, commit)) == state_hashes(LiveState.at(b, commit))


def test_there_and_back(client: Loopback, made: Path, work: Path, tmp_path: Path) -> None:
    with Repository.open(work) as repository:
        assert push(repository).new == repository.head().commit
        assert push(repository).files == {}
    clone(URL, tmp_path / "other", base=str(made / "base"), start=tmp_path)
    same(work, tmp_path / "other")
    stored = client.repos[NAME].store
    head = stored.sha("main") or ""
    for entry in stored.tree(head):
        if entry.path.startswith("objects/") and entry.kind == "file":
            data = stored.blob(entry.oid) if entry.lfs is None else stored.lfs_path(entry.lfs[0]).read_bytes()
            assert (
                entry.path == f"objects/{hashlib.sha256(data).hexdigest()[:2]}/{hashlib.sha256(data).hexdigest()[2:]}"
            )
    with Repository.open(tmp_path / "other") as there:
        record(there, NEW, (1,), message="from there", seed=9)
        client.forget()
        push(there, adapter=False, constraints=False)
        assert client.received < 64_000
    with Repository.open(work) as repository:
        pull(repository)
    same(work, tmp_path / "other")


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="needs git-lfs")
def test_git_accepts_what_was_pushed(client: Loopback, work: Path, tmp_path: Path) -> None:
    with Repository.open(work) as repository:
        push(repository)
        blobs = {blob: repository.blobs.read(blob) for blob in travelling(repository)}
        assert repository.fsck() == []
    check_with_git(client.repos[NAME].store.path, tmp_path / "clone")
    for blob, data in blobs.items():
        assert (tmp_path / "clone" / "objects" / blob[:2] / blob[2:]).read_bytes() == data
    assert BEGIN in (tmp_path / "clone" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("route", ["POST .*/commit/", "PUT /", "POST /api/repos/create"])
def test_a_push_that_failed_is_completed_by_another(client: Loopback, made: Path, work: Path, route: str) -> None:
    client.faults.add(Fault(route, "status", 403, times=99))
    with Repository.open(work) as repository:
        with pytest.raises(MemitVCError) as caught:
            push(repository, adapter=False)
        assert caught.value.exit_code == 14
        assert repository.refs("remotes/") == {}
        client.faults.clear()
        push(repository, adapter=False)
        assert repository.refs("remotes/") == {"remotes/origin/main": repository.head().commit}
        assert repository.fsck() == []


def test_corrupted_bytes_are_refused(client: Loopback, made: Path, work: Path, tmp_path: Path) -> None:
    """The client delivers a flipped byte silently: only our own hashes find it."""
    with Repository.open(work) as repository:
        push(repository, adapter=False)
    flipped = client.faults.add(Fault("GET /ada/facts/[0-9a-f]{64}", "flip"))
    with pytest.raises(MemitVCError) as caught:
        clone(URL, tmp_path / "other", base=str(made / "base"), start=tmp_path)
    assert caught.value.exit_code in (12, 14)
    assert flipped.struck == 1
    assert not (tmp_path / "other" / ".memitvc").exists()
    clone(URL, tmp_path / "other", base=str(made / "base"), start=tmp_path)
    same(work, tmp_path / "other")


def test_a_broken_fetch_is_completed_by_another(client: Loopback, made: Path, work: Path, tmp_path: Path) -> None:
    with Repository.open(work) as repository:
        push(repository, adapter=False)
    clone(URL, tmp_path / "other", base=str(made / "base"), start=tmp_path)
    with Repository.open(work) as repository:
        record(repository, NEW, (1, 2), message="more", seed=9)
        push(repository, adapter=False)
    client.faults.add(Fault("GET /ada/facts/[0-9a-f]{64}", "status", 404, times=9, skip=1))
    with Repository.open(tmp_path / "other") as there:
        before = there.refs()
        with pytest.raises(MemitVCError):
            fetch(there)
        assert there.refs() == before
        assert there.fsck() == []
        client.faults.clear()
        pull(there)
    same(work, tmp_path / "other")


def test_the_token_is_seen_nowhere(hub: Loopback, made: Path, work: Path) -> None:
    """In a process of its own, from push to refusal: not in what is printed, not in what is kept."""
    secret = "hf_thisisthetokenthatnobodymaysee"  # noqa: S105
    hub.tokens[secret] = hub.tokens["hf_ada"]
    pushed = memitvc(hub, work, "push", "--no-adapter", token=secret)
    assert pushed.returncode == 0, pushed.stderr
    hub.faults.add(Fault("GET /api/models", "status", 401, times=99))
    refused = memitvc(hub, work, "fetch", token=secret)
    assert refused.returncode == 14
    assert "error:" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert secret not in pushed.stdout + pushed.stderr + refused.stdout + refused.stderr
    roots = [work, hub.root]
    kept = [path for root in roots for path in root.rglob("*") if path.is_file()]
    assert kept
    assert [path for path in kept if secret.encode() in path.read_bytes()] == []
    with Repository.open(work) as repository:
        assert repository.fsck() == []


@pytest.mark.slow
@pytest.mark.parametrize("route", ["POST .*/preupload/", "PUT /", "POST .*/commit/"])
def test_a_killed_push_is_completed(hub: Loopback, made: Path, work: Path, route: str) -> None:
    running = started(hub, work, "push", "--no-adapter")
    fault = hub.faults.add(Fault(route, "lost", then=running.kill))
    running.communicate()
    assert (running.returncode, fault.struck) == (-9, 1)
    sent = len(hub.lines("PUT"))
    again = memitvc(hub, work, "push", "--no-adapter")
    assert again.returncode == 0, again.stderr
    store = hub.repos[NAME].store
    objects = [entry for entry in store.tree("main") if entry.lfs is not None]
    assert sent < len(hub.lines("PUT")) or route.endswith("/commit/")
    assert len(store.log("main")) == 2
    with Repository.open(work) as repository:
        assert len(objects) <= len(travelling(repository))
        assert repository.refs("remotes/") == {"remotes/origin/main": repository.head().commit}
        assert repository.fsck() == []


@pytest.mark.slow
@pytest.mark.parametrize("route", ["HEAD .*/commits/", "GET /ada/facts/[0-9a-f]{64}"])
def test_a_killed_clone_is_completed(client: Loopback, made: Path, work: Path, tmp_path: Path, route: str) -> None:
    with Repository.open(work) as repository:
        push(repository, adapter=False)
    command = ("clone", URL, "other", "--base", str(made / "base"))
    running = started(client, tmp_path, *command)
    fault = client.faults.add(Fault(route, "lost", then=running.kill, skip=1))
    running.communicate()
    assert (running.returncode, fault.struck) == (-9, 1)
    assert not (tmp_path / "other" / ".memitvc").exists()
    again = memitvc(client, tmp_path, *command)
    assert again.returncode == 0, again.stderr
    same(work, tmp_path / "other")


@pytest.mark.skipif(importlib.util.find_spec("hf_xet") is None, reason="needs hf_xet")
def test_by_xet(hub: Loopback, made: Path, work: Path, tmp_path: Path) -> None:
    hub.cas = tmp_path / "cas"
    for directory, command in (
        (work, ("push",)),
        (tmp_path, ("clone", URL, "other", "--base", str(made / "base"))),
    ):
        done = memitvc(hub, directory, *command, xet=True)
        assert done.returncode == 0, done.stderr
    same(work, tmp_path / "other")
    assert hub.lines("objects/batch|PUT") == []
    assert hub.lines("xet-write-token")
    assert hub.lines("xet-read-token")


@pytest.mark.node
@pytest.mark.skipif(
    "HF_HUB_JS" not in os.environ, reason="needs node, and HF_HUB_JS: a directory with @huggingface/hub"
)
def test_the_javascript_client_reads_it(client: Loopback, work: Path, tmp_path: Path) -> None:
    import subprocess

    with Repository.open(work) as repository:
        push(repository)
        blobs = {f"objects/{blob[:2]}/{blob[2:]}" for blob in travelling(repository)}
        assert repository.fsck() == []
    script = Path(os.environ["HF_HUB_JS"], "read.mjs")
    script.write_text(_SCRIPT, encoding="utf-8")
    done = subprocess.run(
        ["node", str(script), client.endpoint, NAME], capture_output=True, text=True, check=False, cwd=script.parent
    )
    assert done.returncode == 0, done.stderr
    listed = dict(line.split(" ") for line in done.stdout.splitlines())
    assert blobs <= listed.keys()
    for path, digest in listed.items():
        if path.startswith("objects/"):
            assert path == f"objects/{digest[:2]}/{digest[2:]}"


_SCRIPT = """
import { createHash } from "node:crypto";
import { downloadFile, listFiles } from "@huggingface/hub";
const [hubUrl, repo] = process.argv.slice(2), accessToken = "hf_ada";
for await (const file of listFiles({ repo, recursive: true, hubUrl, accessToken })) {
  if (file.type !== "file") continue;
  const blob = await downloadFile({ repo, path: file.path, hubUrl, accessToken, xet: false });
  const data = Buffer.from(await blob.arrayBuffer());
  console.log(file.path, createHash("sha256").update(data).digest("hex"));
}
"""
