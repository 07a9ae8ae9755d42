"""A repository that cannot be written: who computes is told first, and who has published is told that it stands."""

from __future__ import annotations

import errno

import pytest

from memit_vc.errors import StorageError
from memit_vc.porcelain.sharing.push import push
from memit_vc.repository import Repository
from memit_vc.store import database
from tests.support.places import SECOND, Cli, Place
from tests.support.remotes import World, edited, world  # noqa: F401


def lock(patch: pytest.MonkeyPatch) -> None:
    """The file system says so of every database."""
    patch.setattr(database, "obstacle", lambda _: errno.EROFS)


@pytest.mark.parametrize(
    "line",
    [
        ["commit", "edits.json"],
        ["stats"],
        ["revert", "HEAD", "--resolve"],
        ["squash", "--resolve"],
        ["squash", "--compress", "0.5"],
    ],
    ids=lambda line: " ".join(line),
)
def test_nothing_is_computed_that_cannot_be_kept(
    place: Place, cli: Cli, monkeypatch: pytest.MonkeyPatch, line: list[str]
) -> None:
    edits = place.edits(SECOND)
    loads: list[object] = []
    monkeypatch.setattr("memit_vc.porcelain.editing.models.load_model", lambda *_, **__: loads.append(1))
    with monkeypatch.context() as patched:
        lock(patched)
        said = cli(*[edits if word == "edits.json" else word for word in line])
    assert (said.code, loads) == (1, [])
    assert "meta.db: Read-only file system" in said.err
    assert "hint: " in said.err


def test_a_push_from_there_publishes_and_says_what_it_could_not_do(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Repository.open(world.work) as repository:
        made = edited(repository, 1)
        with monkeypatch.context() as patched:
            lock(patched)
            pushed = push(repository)
            assert pushed.commits == (made.id,)
            assert pushed.notes[-1].startswith("published, but not remembered here (remotes/origin/main): ")
            assert push(repository).notes == pushed.notes[-1:]
            with pytest.raises(StorageError):
                repository.database.check_writable()
        assert "remotes/origin/main" not in repository.refs()
        assert push(repository).files == {}
        assert repository.refs()["remotes/origin/main"] == made.id


def test_gc_counts_without_writing(place: Place, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.ok("revert", "HEAD")
    told = cli.ok("gc", "--dry-run", "--prune-operations", "--grace", "0", "--json").json
    with monkeypatch.context() as patched:
        lock(patched)
        assert cli.ok("gc", "--dry-run", "--prune-operations", "--grace", "0", "--json").json == told
        assert cli("gc").code == 1
    assert told["operations"] == 3
