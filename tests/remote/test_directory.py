"""A directory as a remote."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memit_vc.errors import LockedError, MemitVCError, RemoteError, UsageError
from memit_vc.porcelain.sharing.clone import clone
from memit_vc.porcelain.sharing.fetch import fetch
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.remote import directory
from memit_vc.remote.directory import DirectoryRemote
from memit_vc.remote.manifest import ADAPTER, CARD, MANIFEST
from memit_vc.remote.opening import PushOptions, checked_url, open_remote
from memit_vc.remote.protocol import Change
from memit_vc.repository import Repository
from tests.remote.conformance import Conformance
from tests.support.remotes import World, edited


class TestDirectory(Conformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return str(tmp_path / "there" / "deep")

    def foreign(self, url: str, files: dict[str, bytes]) -> None:
        Path(url).mkdir(parents=True)
        for name, data in files.items():
            Path(url, name).write_bytes(data)


def test_addresses(tmp_path: Path) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    for given, kept in {
        "hf://owner/name": "hf://owner/name",
        "hf://owner/name@trial": "hf://owner/name@trial",
        "owner/other@refs/pr/1": "hf://owner/other@refs/pr/1",
        "hf://owner/name@main": "hf://owner/name",
        "https://huggingface.co/owner/name": "hf://owner/name",
        "https://huggingface.co/owner/name.git": "hf://owner/name",
        "https://hf.co/owner/name/tree/a%2Fb": "hf://owner/name@a/b",
        "hf://owner/other/": "hf://owner/other",
        "./hf:owner/x": str(tmp_path / "hf:owner" / "x"),
        "owner/other": "hf://owner/other",
        "owner/name": str(tmp_path / "owner" / "name"),
        "../x/y": str(tmp_path.parent / "x" / "y"),
        "./owner/other": str(tmp_path / "owner" / "other"),
        "file:///srv/a%20b": "/srv/a b",
        "file://localhost/srv/a/": "/srv/a",
        "file:/srv/a": "/srv/a",
        "/srv/facts": "/srv/facts",
    }.items():
        assert checked_url(given, directory=tmp_path) == kept
    for wrong in (
        "https://user:hf_secret@host/x",
        "hf://ada:hf_secretsecret@ada/facts",
        "ada:hf_secretsecret@huggingface.co/ada/facts",
        "ada:pass_hf_secret@host:x",
        "git@hf.co:ada/facts",
        "hf_secretsecret/x",
        "hf://ada/facts@hf_secretsecret",
        "https://huggingface.co/ada/facts?token=hf_secretsecret",
        "hf://name",
        "hf://../x",
        "hf://a/b@-x",
        "ftp://bucket",
        "file://server/edits",
        "file://",
        "file:///srv/a#b",
        "file:///srv/a?b",
        "file:///srv/a%00b",
        "file:edits",
        "~nobody-of-this-name/edits",
    ):
        with pytest.raises(UsageError) as caught:
            checked_url(wrong, directory=tmp_path)
        assert "hf_secret" not in f"{caught.value.message} {caught.value.hint}"
        assert caught.value.hint


@pytest.mark.parametrize("url", ["hf:acme/x", "hf:/acme/x", "C:\\edits", "\\\\server\\share", " ", "", "\t"])
def test_what_is_nearly_an_address_is_no_directory(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="is not an address") as caught:
        checked_url(url, directory=tmp_path)
    assert ("Write hf://acme/x " in str(caught.value.hint)) == url.startswith("hf:")


def test_a_page_of_the_configured_hub_is_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.example:8080")
    assert checked_url("http://hub.example:8080/ada/edits", directory=tmp_path) == "hf://ada/edits"
    assert checked_url("http://hub.example:8080/ada/edits/tree/trial", directory=tmp_path) == "hf://ada/edits@trial"
    for other in ("http://hub.example/ada/edits", "http://hub.example:8080.evil/ada/edits", "https://example.org/a/b"):
        with pytest.raises(UsageError, match="is not a known kind of remote"):
            checked_url(other, directory=tmp_path)


def test_options_of_the_hub_are_refused(tmp_path: Path) -> None:
    for options in (PushOptions(branch="x"), PushOptions(create_pr=True), PushOptions(visibility="public")):
        with pytest.raises(UsageError, match="is a directory"):
            open_remote(str(tmp_path), options)


@pytest.mark.parametrize("path", ["../x", "/etc/x", "objects/../../x", "a\\b", "", "a//b", "./a"])
def test_no_path_leads_outside(tmp_path: Path, path: str) -> None:
    remote = DirectoryRemote(tmp_path / "there")
    with pytest.raises(RemoteError, match="not a path of a remote"):
        remote.publish(Change("x", {path: b"x", MANIFEST: b"{}"}), parent=None)
    assert not (tmp_path / "x").exists()
    assert remote.head() is None


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    with pytest.raises(RemoteError, match="is a file"):
        DirectoryRemote(tmp_path / "there").head()


def test_a_directory_that_may_not_be_written(world: World) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    world.shared.chmod(0o555)
    with Repository.open(world.work) as repository:
        edited(repository, 1)
        with pytest.raises(RemoteError, match="Permission denied"):
            push(repository)
    world.shared.chmod(0o755)


def test_a_directory_that_may_not_be_read_is_not_taken_for_an_empty_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all that is in it would be called missing, and the one who pushed it dishonest."""
    scan, closed = os.scandir, str(world.shared / "commits")

    def refusing(path: Any = ".") -> Any:
        if str(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", closed)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with Repository.open(world.empty) as repository:
        with pytest.raises(RemoteError, match="Permission denied") as caught:
            fetch(repository)
        assert closed in caught.value.message
        monkeypatch.undo()
        fetch(repository)


def test_a_push_of_ten_facts_sends_little_more_than_its_patch(world: World) -> None:
    """Acceptance 6 of the issue, on a tiny model: 1.1 × the patch + 64 kB, adapter and constraints off."""
    with Repository.open(world.work) as repository:
        push(repository, constraints=False, adapter=False)
        (patch,) = edited(repository, 1).patches
        sent = push(repository, constraints=False, adapter=False)
        size = repository.blobs.size(patch)
    assert sent.bytes <= 1.1 * size + 65_536
    assert sent.bytes == sum((world.shared / path).stat().st_size for path in sent.files)


class _KilledError(BaseException):
    pass


def shipped(place: Path) -> dict[str, bytes]:
    return {name: (place / name).read_bytes() for name in (*ADAPTER, CARD) if (place / name).exists()}


def test_an_adapter_that_no_longer_holds_goes_before_the_new_publication(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any deletion: the push, run again, completes it."""
    real = Path.unlink
    for fatal in ADAPTER:

        def unlink(path: Path, missing_ok: bool = False, *, name: str = fatal) -> None:
            if path.name == name:
                raise _KilledError
            real(path, missing_ok)

        with Repository.open(world.work) as repository:
            push(repository)
            assert (world.shared / fatal).exists()
            edited(repository, len(fatal))
            monkeypatch.setattr(Path, "unlink", unlink)
            with pytest.raises(_KilledError):
                push(repository, adapter=False)
            monkeypatch.setattr(Path, "unlink", real)
            push(repository, adapter=False)
            assert not any((world.shared / name).exists() for name in ADAPTER)
            edited(repository, 1 + len(fatal))


def test_no_reader_meets_an_adapter_of_two_states(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before any file that a push writes: config and weights are of one state, or the config is not there."""
    with Repository.open(world.work) as repository:
        old = shipped(world.shared)
        edited(repository, 1)
        before = {path: path.read_bytes() for path in world.shared.iterdir() if path.is_file()}
        push(repository)
        new = shipped(world.shared)
        assert old[ADAPTER[0]] != new[ADAPTER[0]]
        real = Path.rename
        for step in range(12):
            for path, data in before.items():
                path.write_bytes(data)
            left = step

            def rename(path: Path, target: Path) -> Path:
                nonlocal left
                if world.shared in Path(target).parents:
                    if not left:
                        raise _KilledError
                    left -= 1
                return real(path, target)

            monkeypatch.setattr(Path, "rename", rename)
            with contextlib.suppress(_KilledError):
                push(repository)
            monkeypatch.setattr(Path, "rename", real)
            found = shipped(world.shared)
            if ADAPTER[0] in found:
                whole = old if found[ADAPTER[0]] == old[ADAPTER[0]] else new
                assert {name: found[name] for name in ADAPTER} == {name: whole[name] for name in ADAPTER}
            push(repository)
            assert shipped(world.shared) == new


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_a_groups_directory_stays_the_groups(world: World, umask: int) -> None:
    """Whatever the umask of who pushes: the group reads and replaces all, and others get no more."""
    shutil.rmtree(world.shared)
    world.shared.mkdir()
    world.shared.chmod(0o2770)
    before = os.umask(umask)
    try:
        with Repository.open(world.work) as repository:
            push(repository)
            edited(repository, 1)
            push(repository)
    finally:
        os.umask(before)
    for path in (world.shared, *world.shared.rglob("*")):
        needed = 0o2070 if path.is_dir() else 0o060
        mode = path.stat().st_mode
        assert mode & needed == needed, path
        assert not mode & 0o007 & umask, path
    world.shared.chmod(0o700)
    with Repository.open(world.work) as repository:
        made = edited(repository, 2)
        os.umask(0o077)
        try:
            push(repository)
        finally:
            os.umask(before)
        assert (world.shared / f"commits/{made.id}.json").stat().st_mode & 0o077 == 0


def test_files_of_others_in_the_same_directory_stay(world: World) -> None:
    """Also those that look like ours in another folder: only the names that a push writes are tidied."""
    dead = "tmp-0123456789ab"
    others = [world.shared / "mine" / f"x.{dead}", world.shared / f"notes.txt.{dead}"]
    ours = [world.shared / f"{MANIFEST}.{dead}", world.shared / "objects" / "ab" / f"cd.{dead}"]
    for path in (*others, *ours):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    with Repository.open(world.work) as repository:
        edited(repository, 1)
        push(repository)
    assert [path.exists() for path in (*others, *ours)] == [True, True, False, False]


def held(lock: Path) -> None:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (held, LockedError, "another push to .* is under way"),
        (os.mkfifo, RemoteError, "is a named pipe, not a file"),
        (lambda lock: lock.symlink_to("../victim"), RemoteError, "is a symbolic link, not a file"),
    ],
)
def test_a_lock_that_is_held_or_is_no_file(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    error: type[MemitVCError],
    said: str,
) -> None:
    monkeypatch.setattr(directory, "_WAIT", 0.2)
    (world.shared / ".memitvc-lock").unlink()
    make(world.shared / ".memitvc-lock")
    before = (world.shared / MANIFEST).read_bytes()
    with Repository.open(world.work) as repository:
        edited(repository, 1)
        with pytest.raises(error, match=said) as caught:
            push(repository)
    assert caught.value.hint
    assert (world.shared / MANIFEST).read_bytes() == before
    assert not (world.shared.parent / "victim").exists()


@pytest.mark.parametrize("name", ["commits", "objects", MANIFEST, CARD])
def test_links_out_of_a_remote_are_not_followed(world: World, tmp_path: Path, name: str) -> None:
    """Neither by who reads nor by who writes: otherwise one side sees what the other does not."""
    (world.shared / name).rename(tmp_path / "moved")
    (world.shared / name).symlink_to(tmp_path / "moved")
    with Repository.open(world.work) as repository:
        edited(repository, 1)
        with pytest.raises(RemoteError, match=f"{name}: is a link to .*moved") as caught:
            push(repository)
        assert caught.value.hint
    with pytest.raises(RemoteError, match=f"{name}: is a link to .*moved"):
        clone(str(world.shared), tmp_path / "copy", base=str(world.base), start=tmp_path)
    assert not (tmp_path / "copy").exists()


def test_links_of_others_are_left_out(world: World) -> None:
    (world.shared / "notes").symlink_to("/etc")
    (world.shared / "passwd").symlink_to("/etc/passwd")
    with Repository.open(world.work) as repository:
        edited(repository, 1)
        push(repository)
    assert not {"notes", "passwd"} & DirectoryRemote(world.shared).listing(None).keys()


def test_a_snapshot_of_the_hubs_cache_is_a_remote(world: World, tmp_path: Path) -> None:
    """What `snapshot_download` returns: every file is a link into blobs/."""
    folder = tmp_path / "models--ada--edits"
    snapshot, blobs = folder / "snapshots" / ("0" * 40), folder / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(path for path in world.shared.rglob("*") if path.is_file()):
        link = snapshot / path.relative_to(world.shared)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    made = clone(str(snapshot), tmp_path / "copy", base=str(world.base), start=tmp_path)
    with Repository.open(made.directory) as repository:
        assert len(repository.live_facts(repository.head().commit)) > 0
        assert fsck(repository) == ([], 0)


@pytest.mark.parametrize("pattern", ["objects/*/*", "commits/*", MANIFEST])
def test_a_copy_without_git_lfs_is_named(world: World, tmp_path: Path, pattern: str) -> None:
    for path in world.shared.glob(pattern):
        path.unlink()
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 5\n")
    with pytest.raises(MemitVCError, match="is a Git LFS pointer, not the file itself") as caught:
        clone(str(world.shared), tmp_path / "copy", base=str(world.base), start=tmp_path)
    assert "git lfs pull" in str(caught.value.hint)
    assert not (tmp_path / "copy").exists()
