"""What every kind of remote must do. A kind is a subclass of `Conformance` with the fixture `url`.

The first half asks the remote itself (`memit_vc.remote.protocol`), the second half the verbs on top of it.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from memit_vc.errors import MemitVCError, RefMovedError, RemoteError
from memit_vc.numerics.exact.patchfile import check_patch
from memit_vc.porcelain.history.facts import facts
from memit_vc.porcelain.history.log import log
from memit_vc.porcelain.history.scores_at_commit import came_in
from memit_vc.porcelain.history.show import show
from memit_vc.porcelain.sets.merge import merge
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sets.squash import squash
from memit_vc.porcelain.sets.tag import create_tag
from memit_vc.porcelain.sharing.card import model_card
from memit_vc.porcelain.sharing.clone import clone
from memit_vc.porcelain.sharing.fetch import fetch
from memit_vc.porcelain.sharing.pull import pull
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.sharing.remotes import add_remote, remove_remote
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.remote.manifest import MANIFEST, object_path
from memit_vc.remote.opening import open_remote
from memit_vc.remote.protocol import Change, Remote
from memit_vc.repository import Repository
from tests.support.remotes import World, edited
from tests.support.synthetic import travelling

__all__ = ["Conformance"]

ROOM = 1_000_000
BLOB = bytes(range(256)) * 20
NAME = object_path("ab" * 32)


class Conformance:
    """Inherit from it, give it `url`: an address at which nothing was pushed yet."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def there(self, url: str) -> Remote:
        return open_remote(url)

    @pytest.fixture
    def place(self, world: World, url: str) -> World:
        """Both repositories have the remote as their origin."""
        for directory in (world.work, world.empty):
            with Repository.open(directory) as repository:
                remove_remote(repository, "origin")
                add_remote(repository, "origin", url, directory=directory)
        return world

    def test_nothing_is_there_at_first(self, there: Remote) -> None:
        assert there.head() is None

    def test_a_tree_goes_up_and_comes_down(self, there: Remote, url: str, tmp_path: Path) -> None:
        (tmp_path / "blob").write_bytes(BLOB)
        first = there.publish(Change("one", {MANIFEST: b"{}", NAME: tmp_path / "blob", "x": b"1"}), parent=None)
        again = open_remote(url)
        assert again.head() == first
        listing = again.listing(first)
        assert {path: listing[path].size for path in (MANIFEST, NAME, "x")} == {MANIFEST: 2, NAME: len(BLOB), "x": 1}
        assert again.read(MANIFEST, first, limit=ROOM) == b"{}"
        again.fetch(NAME, first, tmp_path / "got", limit=ROOM)
        assert (tmp_path / "got").read_bytes() == BLOB
        second = again.publish(Change("two", {MANIFEST: b"[]"}, frozenset({"x"})), parent=first)
        assert second != first
        assert "x" not in open_remote(url).listing(second)
        assert open_remote(url).read(MANIFEST, second, limit=ROOM) == b"[]"

    def test_what_is_absent_or_too_large_is_refused(self, there: Remote, tmp_path: Path) -> None:
        made = there.publish(Change("one", {MANIFEST: b"{}", NAME: BLOB}), parent=None)
        for path, limit in (("objects/none", ROOM), (NAME, 10)):
            with pytest.raises(RemoteError) as caught:
                there.read(path, made, limit=limit)
            assert caught.value.hint
            with pytest.raises(RemoteError):
                there.fetch(path, made, tmp_path / "got", limit=limit)

    def test_only_the_head_can_be_built_on(self, there: Remote, url: str) -> None:
        first = there.publish(Change("one", {MANIFEST: b"{}"}), parent=None)
        second = there.publish(Change("two", {MANIFEST: b"[1]"}), parent=first)
        for parent in (first, None):
            with pytest.raises(RefMovedError) as caught:
                open_remote(url).publish(Change("late", {MANIFEST: b"[2]"}), parent=parent)
            assert caught.value.exit_code == 11
        assert open_remote(url).head() == second
        assert open_remote(url).read(MANIFEST, second, limit=ROOM) == b"[1]"

    def test_of_many_at_once_one_wins(self, there: Remote, url: str) -> None:
        parent = there.publish(Change("one", {MANIFEST: b"{}"}), parent=None)
        results: list[str | MemitVCError] = []

        def publish(number: int) -> None:
            try:
                change = Change(f"by {number}", {MANIFEST: b"[%d]" % number, f"objects/x{number}": BLOB})
                results.append(open_remote(url).publish(change, parent=parent))
            except MemitVCError as error:
                results.append(error)

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        won = [result for result in results if isinstance(result, str)]
        assert len(results) == 4
        assert won == [open_remote(url).head()]
        assert sum(isinstance(result, RefMovedError) for result in results) == 3

    def test_a_history_goes_round(self, place: World, url: str, tmp_path: Path) -> None:
        """Same commits, same states, same objects, same facts and scores; no model but for the base's own check."""
        with Repository.open(place.work) as source:
            sent = push(source, tag="v1")
            assert (len(sent.commits), sent.old) == (5, None)
            clone(url, Path("copy"), base=str(place.base), start=tmp_path)
            with Repository.open(tmp_path / "copy") as copy:
                assert fsck(copy) == ([], 0)
                assert copy.head() == source.head()
                wanted = [entry for entry in log(source) if entry.id]
                found = log(copy)
                assert [entry.id for entry in found] == [entry.id for entry in wanted]
                for entry in wanted:
                    assert copy.state_id(copy.state(entry.id)) == source.state_id(source.state(entry.id))
                    mine, theirs = show(copy, entry.id), show(source, entry.id)
                    assert (mine.added, mine.removed, mine.scores) == (theirs.added, theirs.removed, theirs.scores)
                    assert mine.provenance == theirs.provenance
                    assert [f.fact for f in facts(copy, entry.id)] == [f.fact for f in facts(source, entry.id)]
                assert any(show(copy, entry.id).scores for entry in wanted)
                for patch in source.selection(source.state(source.resolve("HEAD~1"))):
                    assert copy.patch(patch) == source.patch(patch)
                    assert check_patch(copy.patch_path(patch), source.patch(patch)) == []
                assert copy.resolve("v1") == copy.resolve("origin/main") == source.head().commit
                assert copy.undo().verb == "undo"
                assert copy.fsck() == []

    def test_scores_that_a_squash_hands_on_travel(self, place: World, url: str, tmp_path: Path) -> None:
        """Who pushes from a clone writes the card that the first one wrote."""
        with Repository.open(place.work) as source:
            tip = squash(source).tip
            push(source)
            clone(url, Path("copy"), base=str(place.base), start=tmp_path)
            with Repository.open(tmp_path / "copy") as copy:
                assert fsck(copy) == ([], 0)
                assert copy.head().commit == tip
                mine, theirs = came_in(copy, [tip]), came_in(source, [tip])
                assert mine == theirs
                assert any(theirs[tip].values())
                card = model_card(source, tip, url=url)
                assert "Answer's tokens right" in card or "ES (new answer preferred)" in card
                assert model_card(copy, tip, url=url) == card

    def test_only_what_is_missing_travels(self, place: World) -> None:
        with Repository.open(place.work) as here, Repository.open(place.empty) as there:
            push(here)
            again = push(here)
            assert (again.commits, again.files) == ((), {})
            first = pull(there)
            assert (first.fetched.commits, first.after) == (4, here.head().commit)
            assert pull(there).fetched.objects == 0
            edited(here, 1)
            sent = push(here)
            assert (len(sent.commits), sent.objects) == (1, 3)
            came = pull(there).fetched
            assert (came.commits, came.objects) == (1, 3)
            assert came.bytes == sum(size for path, size in sent.files.items() if path.startswith("objects/"))
            revert(there, ["HEAD"])
            assert push(there).objects == 0
            assert fetch(here).objects == 0

    def test_wrong_bytes_under_a_right_name_are_replaced(self, place: World, there: Remote) -> None:
        """What a copy that was stopped leaves at the other end: the size is right, the bytes are not."""
        with Repository.open(place.work) as here:
            push(here, adapter=False)
            made = edited(here, 1)
            (patch,) = made.patches
            wrong = {object_path(patch): bytes(here.blobs.size(patch))}
            if made.provenance is not None:
                wrong[object_path(made.provenance)] = bytes(here.blobs.size(made.provenance))
            head = there.head()
            # the manifest with it: a directory's revision is that file
            assert head is not None
            there.publish(Change("wrong", wrong), parent=head)
            push(here, adapter=False)
        with Repository.open(place.empty) as reader:
            pull(reader)
            assert reader.head().commit == made.id

    def test_names_of_ours_that_something_else_has(self, place: World, there: Remote, tmp_path: Path) -> None:
        """A place without memitvc.json: what it has under our names would go to whoever clones."""
        self.foreign(there.url, {"hparams.yaml": b"lr: 3\n"})
        with Repository.open(place.work) as here:
            with pytest.raises(RemoteError, match=r"another hparams\.yaml") as caught:
                push(here, adapter=False)
            assert caught.value.hint
            assert here.refs("remotes/") == {}

    def test_a_readme_that_was_there_first_is_kept(self, place: World, there: Remote) -> None:
        self.foreign(there.url, {"README.md": b"# Mine\n\nMy own words.\n"})
        with Repository.open(place.work) as here:
            push(here)
        card = there.read("README.md", there.head(), limit=ROOM)
        assert b"My own words." in card
        assert b"What was edited" in card

    def foreign(self, url: str, files: dict[str, bytes]) -> None:
        """Put files at `url` as somebody else does."""
        raise NotImplementedError

    def test_a_lost_object_is_brought_again(self, place: World) -> None:
        with Repository.open(place.work) as here:
            push(here)
            blobs = travelling(here)
            for blob in blobs[:2]:
                here.blobs.path(blob).unlink()
            assert {problem.object for problem in here.fsck()} == set(blobs[:2])
            assert fetch(here).objects == 2
            assert here.fsck() == []

    def test_without_constraints(self, place: World) -> None:
        with Repository.open(place.work) as here, Repository.open(place.empty) as there:
            sent = push(here, constraints=False, adapter=False)
            assert "adapter_config.json" not in sent.files
            pull(there)
            patches = there.selection(there.state(there.resolve("HEAD~1")))
            assert patches
            assert all(there.patch(patch).constraints is None for patch in patches)
            assert there.fsck() == []

    def test_constraints_that_come_later(self, place: World) -> None:
        with Repository.open(place.work) as here, Repository.open(place.empty) as there:
            push(here, constraints=False, adapter=False)
            pull(there)
            assert set(there.patch_constraints().values()) == {None}
            sent = push(here, adapter=False)
            assert (sent.commits, sent.objects) == ((), len(here.patch_constraints()))
            assert push(here, adapter=False).files == {}
            came = pull(there).fetched
            assert (came.commits, came.objects) == (0, sent.objects)
            assert there.patch_constraints() == here.patch_constraints()
            assert fetch(there).objects == 0
            assert there.fsck() == []

    def test_two_pushers(self, place: World) -> None:
        """One wins; the other pulls, merges, pushes; the first fast-forwards to the same commit."""
        with Repository.open(place.work) as first, Repository.open(place.empty) as second:
            push(first)
            pull(second)
            edited(first, 1)
            edited(second, 2)
            push(first)
            before = second.refs()
            with pytest.raises(RefMovedError, match="not here") as caught:
                push(second)
            assert "memitvc pull" in str(caught.value.hint)
            assert second.refs() == before
            with pytest.raises(RefMovedError) as diverged:
                pull(second)
            assert diverged.value.hint == "Join them: memitvc merge origin/main"
            assert second.refs()["heads/main"] == before["heads/main"]
            assert second.refs()["remotes/origin/main"] == first.head().commit
            merge(second, "origin/main")
            push(second)
            pull(first)
            assert first.head() == second.head()
            assert first.state(first.head().commit) == second.state(second.head().commit)

    def test_pushing_at_the_same_time(self, place: World) -> None:
        """Onto one branch: exactly one wins. Onto two branches: both do."""
        with Repository.open(place.work) as first, Repository.open(place.empty) as second:
            push(first)
            pull(second)
            edited(first, 1)
            edited(second, 2)
        results: list[str] = []

        def pushing(directory: Path, branch: str) -> None:
            with Repository.open(directory) as repository:
                try:
                    push(repository, None, branch)
                    results.append("pushed")
                except RefMovedError as error:
                    results.append(f"exit {error.exit_code}")

        at_once(pushing, (place.work, "main"), (place.empty, "main"))
        assert sorted(results) == ["exit 11", "pushed"]
        for directory, branch in ((place.work, "left"), (place.empty, "right")):
            with Repository.open(directory) as repository:
                from memit_vc.porcelain.sets.branch import create_branch

                create_branch(repository, branch)
        results.clear()
        at_once(pushing, (place.work, "left"), (place.empty, "right"))
        assert results == ["pushed", "pushed"]
        with Repository.open(place.work) as repository:
            fetch(repository)
            assert {"remotes/origin/main", "remotes/origin/left", "remotes/origin/right"} <= repository.refs().keys()

    def test_tags_stay_where_they_are(self, place: World) -> None:
        with Repository.open(place.work) as here, Repository.open(place.empty) as there:
            create_tag(here, "v1", "HEAD~1")
            push(here)
            pull(there)
            assert there.resolve("v1") == here.resolve("v1")
            with pytest.raises(MemitVCError, match="not at main's tip"):
                push(here, tag="v1")
            edited(here, 1)
            edited(there, 2)
            create_tag(here, "v2")
            create_tag(there, "v2")
            push(here)
            with pytest.raises(RefMovedError):
                pull(there)
            merge(there, "origin/main")
            sent = push(there)
            assert any("tag v2" in note for note in sent.notes)
            assert any("tag v2" in note for note in fetch(there).notes)
            with pytest.raises(MemitVCError, match="not at main's tip"):
                push(there, tag="v2")
            assert there.resolve("v2") != here.resolve("v2")

    def test_a_users_text_on_the_card_is_kept(self, place: World, there: Remote) -> None:
        with Repository.open(place.work) as here:
            push(here)
            head = there.head()
            assert head is not None
            card = there.read("README.md", head, limit=ROOM).decode()
            assert "Tokyo" in card
            there.publish(Change("mine", {"README.md": (card + "\n\nMy own words.\n").encode()}), parent=head)
            edited(here, 1)
            push(here)
            head = open_remote(there.url).head()
            assert head is not None
            renewed = open_remote(there.url).read("README.md", head, limit=ROOM).decode()
            assert "My own words." in renewed
            assert "country 1" in renewed

    def test_a_dry_run_sends_nothing(self, place: World, there: Remote) -> None:
        with Repository.open(place.work) as here:
            planned = push(here, dry_run=True)
            assert there.head() is None
            assert "refs/remotes/origin/main" not in here.refs()
            sent = push(here)
            assert planned.files == sent.files


def at_once(call: object, *arguments: tuple[object, ...]) -> None:
    threads = [threading.Thread(target=call, args=each) for each in arguments]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
