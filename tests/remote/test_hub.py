"""The Hub as a remote, by the unmodified client against the loopback Hub: what goes well."""

from __future__ import annotations

from pathlib import Path

import pytest

from memit_vc.errors import RefMovedError, RemoteError
from memit_vc.remote.hub import HubRemote
from memit_vc.remote.protocol import Change
from tests.support.hub.loopback import Loopback

NAME = "ada/facts"
BLOB = bytes(range(256)) * 400
FIRST = Change("first", {"memitvc.json": b"{}", "objects/ab/cdef": BLOB, "README.md": b"# facts\n"})
ROOM = 1_000_000


def remote(hub: Loopback, name: str = NAME, **options: object) -> HubRemote:
    return HubRemote(name, endpoint=hub.endpoint, **options)  # type: ignore[arg-type]


def test_a_tree_goes_up_and_comes_down(client: Loopback, tmp_path: Path) -> None:
    here = remote(client)
    assert here.head() is None
    (tmp_path / "big").write_bytes(BLOB[::-1])
    change = Change("first", {**FIRST.adds, "objects/ba/big": tmp_path / "big"})
    made = here.publish(change, parent=None)
    there = remote(client)
    assert there.head() == made
    listing = there.listing(made)
    assert listing.keys() - {".gitattributes"} == change.adds.keys()
    assert (listing["objects/ab/cdef"].size, len(listing["objects/ab/cdef"].sha256 or "")) == (len(BLOB), 64)
    assert there.read("README.md", made, limit=ROOM) == b"# facts\n"
    there.fetch("objects/ba/big", made, tmp_path / "got", limit=ROOM)
    assert (tmp_path / "got").read_bytes() == BLOB[::-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "got", "hub"]
    again = there.publish(Change("second", {"memitvc.json": b"[]"}, frozenset({"README.md"})), parent=made)
    assert "README.md" not in there.listing(again)
    assert there.read("memitvc.json", again, limit=ROOM) == b"[]"
    assert there.read("memitvc.json", made, limit=ROOM) == b"{}"


def test_what_is_there_is_not_sent_again(client: Loopback) -> None:
    here = remote(client)
    made = here.publish(FIRST, parent=None)
    client.forget()
    here.publish(Change("second", {**FIRST.adds, "memitvc.json": b"[]"}), parent=made)
    assert client.lines("PUT") == []
    assert client.received < 20_000


def test_a_missing_or_too_large_file_is_refused(client: Loopback, tmp_path: Path) -> None:
    here = remote(client)
    made = here.publish(FIRST, parent=None)
    with pytest.raises(RemoteError, match="has no file objects/xx"):
        here.fetch("objects/xx", made, tmp_path / "got", limit=ROOM)
    client.forget()
    with pytest.raises(RemoteError, match="more than the 10 that it may have"):
        here.read("objects/ab/cdef", made, limit=10)
    assert client.lines("resolve") == []
    assert not (tmp_path / "got").exists()


def test_the_branch_moved(client: Loopback) -> None:
    here, there = remote(client), remote(client)
    first = here.publish(FIRST, parent=None)
    second = here.publish(Change("second", {"memitvc.json": b"[2]"}), parent=first)
    with pytest.raises(RefMovedError, match="someone else pushed") as caught:
        there.publish(Change("other", {"memitvc.json": b"[3]"}), parent=first)
    assert caught.value.exit_code == 11
    assert "memitvc pull" in str(caught.value.hint)
    assert there.head() == second
    with pytest.raises(RefMovedError):
        there.publish(FIRST, parent=None)
    assert there.head() == second


def test_who_may_see_a_new_repository(client: Loopback) -> None:
    for name, said, private in (("ada/a", True, True), ("ada/b", False, False), ("lab/c", None, False)):
        remote(client, name, private=said).publish(FIRST, parent=None)
        assert client.repos[name].private is private
    client.private_by_default = True
    remote(client, "ada/d").publish(FIRST, parent=None)
    assert client.repos["ada/d"].private


def test_another_branch_and_a_tag(client: Loopback) -> None:
    remote(client).publish(FIRST, parent=None)
    there = remote(client, branch="trial")
    assert there.head() is None
    made = there.publish(Change("trial", {"memitvc.json": b"[1]"}), parent=None)
    assert there.head() == made
    assert remote(client).head() != made
    for _ in range(2):
        there.tag("v1", made)
    refs = client.repos[NAME].store.refs()
    assert (refs["refs/heads/trial"], refs["refs/tags/v1"]) == (made, made)
    more = there.publish(Change("more", {"memitvc.json": b"[2]"}), parent=made)
    with pytest.raises(RemoteError, match="tag v1 already"):
        there.tag("v1", more)


def test_a_pull_request(client: Loopback) -> None:
    parent = remote(client).publish(FIRST, parent=None)
    proposal = remote(client, create_pr=True)
    made = proposal.publish(Change("proposal", {"memitvc.json": b"[9]"}), parent=parent)
    assert proposal.pull_request == f"{client.endpoint}/{NAME}/discussions/1"
    assert client.repos[NAME].store.refs()["refs/pr/1"] == made
    assert remote(client).head() == parent
