"""`push` with what only the Hub has: pull requests, its own branches and tags, who may see a repository."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memit_vc.porcelain.push import push
from memit_vc.porcelain.remotes import add_remote
from memit_vc.remote.opening import PushOptions
from memit_vc.repository import Repository
from tests.hub.faults import Fault
from tests.hub.loopback import Loopback
from tests.remote.conftest import World, edited, made, world

__all__ = ["made", "world"]

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
