"""`push` with what only the Hub has: pull requests, its own branches and tags, who may see a repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memit_vc.errors import RefMovedError, RemoteError, UsageError
from memit_vc.objects import CommitId
from memit_vc.porcelain.sharing.clone import clone
from memit_vc.porcelain.sharing.fetch import fetch
from memit_vc.porcelain.sharing.pull import pull
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.sharing.remotes import add_remote
from memit_vc.progress import size_text
from memit_vc.remote.hub import HubRemote
from memit_vc.remote.opening import PushOptions
from memit_vc.repository import Repository
from tests.support.hub.faults import Fault
from tests.support.hub.loopback import Loopback
from tests.support.remotes import World, edited

NAME = "ada/facts"
COMMIT = "POST .*/commit/"


@pytest.fixture
def here(client: Loopback, world: World) -> Iterator[Repository]:
    """A repository that was pushed to the remote `hub`, and one commit more."""
    with Repository.open(world.work) as repository:
        add_remote(repository, "hub", f"hf://{NAME}", directory=world.work)
        push(repository, "hub", adapter=False)
        edited(repository, 1)
        client.forget()
        yield repository


def refs(hub: Loopback) -> dict[str, str]:
    return hub.repos[NAME].store.refs()


@pytest.mark.parametrize("lost", [False, True])
def test_a_pull_request_moves_nothing(client: Loopback, here: Repository, lost: bool) -> None:
    before, main = here.refs(), refs(client)["refs/heads/main"]
    if lost:
        client.faults.add(Fault(COMMIT, "lost"))
    made = push(here, "hub", adapter=False, tag="v1", options=PushOptions(create_pr=True))
    assert made.pull_request == f"{client.endpoint}/{NAME}/discussions/1"
    assert here.refs() == before
    assert refs(client)["refs/heads/main"] == main
    assert "refs/tags/v1" not in refs(client)


def test_a_pull_request_while_main_moves(client: Loopback, here: Repository) -> None:
    store = client.repos[NAME].store
    parent = refs(client)["refs/heads/main"]
    client.faults.add(
        Fault(
            COMMIT,
            "status",
            412,
            then=lambda: store.commit("refs/heads/main", parent, "theirs", {"note.txt": b"x"}),
        )
    )
    made = push(here, "hub", adapter=False, options=PushOptions(create_pr=True))
    assert made.pull_request == f"{client.endpoint}/{NAME}/discussions/1"
    proposed = refs(client)["refs/pr/1"]
    assert store.parents(proposed) == [refs(client)["refs/heads/main"]]


TRIAL = PushOptions(branch="trial")


def tip(repository: Repository) -> CommitId:
    return repository.head().commit


def test_a_branch_of_the_hub_begins_with_all_that_main_has(client: Loopback, here: Repository) -> None:
    """Only what is new is sent; the refs and the text that main has are there too; main's tracking ref stays."""
    store, main = client.repos[NAME].store, refs(client)["refs/heads/main"]
    card = HubRemote(NAME).read("README.md", main, limit=10**7)
    main = store.commit("refs/heads/main", main, "mine", {"README.md": card + b"\nMy own words\n"})
    before = here.refs("remotes/")
    made = push(here, "hub", adapter=False, options=TRIAL)
    assert (len(made.commits), made.objects, made.remote) == (1, 3, f"hf://{NAME}@trial")
    assert any("memitvc remote add" in note for note in made.notes)
    assert here.refs("remotes/") == before
    assert refs(client)["refs/heads/main"] == main
    assert store.parents(refs(client)["refs/heads/trial"]) == [main]
    trial = HubRemote(NAME, branch="trial")
    text = trial.read("README.md", trial.head(), limit=10**7)
    assert b"My own words" in text
    assert b"memitvc clone ada/facts@trial" in text
    assert fetch(here, "hub").moved == ()


def test_what_is_on_a_branch_can_be_had(client: Loopback, here: Repository, world: World, tmp_path: Path) -> None:
    push(here, "hub", adapter=False, options=TRIAL)
    made = clone(f"{NAME}@trial", base=str(world.base), start=tmp_path)
    assert (made.directory.name, made.commit) == ("facts", tip(here))
    with pytest.raises(Exception, match="nothing was pushed"):
        clone(f"{NAME}@tryal", base=str(world.base), start=tmp_path / "other")
    add_remote(here, "trial", f"{NAME}@trial", directory=tmp_path)
    edited(here, 2)
    assert push(here, "hub", adapter=False, options=TRIAL).remote == "trial"
    assert here.refs("remotes/trial/") == {"remotes/trial/main": tip(here)}
    edited(here, 3)
    assert push(here, "trial", adapter=False).remote == "trial"
    with Repository.open(made.directory) as copy:
        assert pull(copy).after == tip(here)
        assert copy.fsck() == []


def test_a_new_branch_may_leave_main_behind(client: Loopback, here: Repository, world: World) -> None:
    """Where main has moved on, a branch of one's own is the way to publish at once."""
    with Repository.open(world.empty) as other:
        add_remote(other, "hub", f"hf://{NAME}", directory=world.empty)
        pull(other, "hub")
        edited(other, 5)
        push(other, "hub", adapter=False)
    with pytest.raises(RefMovedError):
        push(here, "hub", adapter=False)
    push(here, "hub", adapter=False, options=TRIAL)
    edited(here, 6)
    assert push(here, "hub", adapter=False, options=TRIAL).new == tip(here)


def test_a_pull_request_is_one_on_main(client: Loopback, here: Repository) -> None:
    with pytest.raises(UsageError, match="pull request on main"):
        push(here, "hub", options=PushOptions(branch="trial", create_pr=True))
    assert client.lines() == []


def test_a_tag_that_was_published_stays_where_it_is(client: Loopback, here: Repository) -> None:
    """Somebody corrects the README on the Hub, and the same command is run again."""
    push(here, "hub", adapter=False, tag="v1")
    store, at = client.repos[NAME].store, refs(client)["refs/tags/v1"]
    store.commit("refs/heads/main", refs(client)["refs/heads/main"], "a typo", {"note.txt": b"x"})
    assert push(here, "hub", adapter=False, tag="v1").files == {}
    assert refs(client)["refs/tags/v1"] == at


def test_a_tag_that_the_hub_refused_is_made_by_the_next_push(client: Loopback, here: Repository) -> None:
    """What was published stands, and is remembered here."""
    client.faults.add(Fault("POST .*/tag/", "status", 403))
    made = push(here, "hub", adapter=False, tag="v1")
    assert any("published, but without a tag of the server's own" in note for note in made.notes)
    assert here.refs()["remotes/hub/main"] == here.refs()["tags/v1"] == here.head().commit
    push(here, "hub", adapter=False, tag="v1")
    assert refs(client)["refs/tags/v1"] == refs(client)["refs/heads/main"]


def test_nothing_is_sent_to_a_repository_that_others_may_see_than_asked(client: Loopback, here: Repository) -> None:
    before = refs(client)
    client.repos[NAME].private = True
    with pytest.raises(RemoteError, match="is private, and --public is only for"):
        push(here, "hub", adapter=False, options=PushOptions(visibility="public"))
    client.repos[NAME].private = False
    for dry_run in (True, False):
        with pytest.raises(RemoteError, match="is public, and --private is only for"):
            push(here, "hub", adapter=False, options=PushOptions(visibility="private"), dry_run=dry_run)
    assert refs(client) == before
    assert push(here, "hub", adapter=False, options=PushOptions(visibility="public")).notes == ()


def test_a_push_says_who_sees_what_it_made(client: Loopback, here: Repository) -> None:
    for name, visibility in (("ada/open", "public"), ("ada/closed", "private")):
        add_remote(here, name[4:], f"hf://{name}", directory=here.directory)
        made = push(here, name[4:], adapter=False, options=PushOptions(visibility=visibility))  # type: ignore[arg-type]
        assert made.notes == (f"made a {visibility} repository: {client.endpoint}/{name}",)
        edited(here, len(name))
        assert push(here, name[4:], adapter=False).notes == ()


def test_a_push_says_how_much_goes(client: Loopback, here: Repository) -> None:
    told: list[str] = []
    made = push(here, "hub", adapter=False, progress=lambda stage, done, total: told.append(stage))
    assert f"send {len(made.files)} files, {size_text(made.bytes)}" in told
