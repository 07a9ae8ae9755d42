"""A bucket as a remote: moto's S3 server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memit_vc.errors import MemitVCError, RefMovedError, RemoteError, UsageError
from memit_vc.porcelain.sharing.pull import pull
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.sharing.remotes import add_remote, remove_remote
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.remote.bucket import BucketRemote
from memit_vc.remote.manifest import ADAPTER, CARD, HPARAMS, MANIFEST, unfinished_path
from memit_vc.remote.opening import PushOptions, checked_url, open_remote
from memit_vc.remote.protocol import Change
from memit_vc.repository import Repository
from tests.remote.conformance import Conformance
from tests.support.bucket import ACCESS_KEY, SECRET_KEY, Bucket, served
from tests.support.hub.faults import Fault
from tests.support.remotes import World, edited


@pytest.fixture(scope="session")
def server() -> Iterator[Bucket]:
    pytest.importorskip("obstore")
    pytest.importorskip("moto")
    with served() as bucket:
        yield bucket


@pytest.fixture
def bucket(server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.requests.clear()
    yield server
    server.faults.clear()


@pytest.fixture
def url(bucket: Bucket, tmp_path: Path) -> str:
    """A place of its own for each test, in one bucket."""
    return f"s3://{bucket.name}/{tmp_path.name}/deep"


class TestBucket(Conformance):
    @pytest.fixture
    def url(self, bucket: Bucket, tmp_path: Path) -> str:
        return f"s3://{bucket.name}/{tmp_path.name}"

    def foreign(self, url: str, files: dict[str, bytes]) -> None:
        import obstore

        for path, data in files.items():
            obstore.put(BucketRemote(url).store, path, data)


@pytest.fixture
def place(world: World, url: str) -> World:
    for directory in (world.work, world.empty):
        with Repository.open(directory) as repository:
            remove_remote(repository, "origin")
            add_remote(repository, "origin", url, directory=directory)
    return world


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(bucket: Bucket, url: str, status: int) -> None:
    bucket.faults.add(Fault(f"PUT .*{MANIFEST}", "status", status=status))
    bucket.faults.add(Fault("GET ", "status", status=status))
    made = open_remote(url).publish(Change("one", {MANIFEST: b"{}", CARD: b"x"}), parent=None)
    assert open_remote(url).head() == made


@pytest.mark.parametrize("parent", [None, b"{}"])
def test_a_lost_answer_is_resolved_by_reading(bucket: Bucket, url: str, parent: bytes | None) -> None:
    """The store has done it and says 500; the client asks again and hears that the file is another one now."""
    first = None if parent is None else open_remote(url).publish(Change("one", {MANIFEST: parent}), parent=None)
    bucket.faults.add(Fault(f"PUT .*{MANIFEST}", "lost"))
    made = open_remote(url).publish(Change("two", {MANIFEST: b"[1]"}), parent=first)
    assert open_remote(url).head() == made


def test_a_lost_race_changes_nothing(bucket: Bucket, url: str) -> None:
    """Another publication lands between our look and our write; our files for readers are not written over theirs."""
    first = open_remote(url).publish(Change("one", {MANIFEST: b"{}", CARD: b"old"}), parent=None)

    def other() -> None:
        open_remote(url).publish(Change("theirs", {MANIFEST: b"[2]", CARD: b"theirs"}), parent=first)

    bucket.faults.add(Fault(f"PUT .*{MANIFEST}", "status", then=other))
    with pytest.raises(RefMovedError):
        open_remote(url).publish(Change("ours", {MANIFEST: b"[1]", CARD: b"ours"}), parent=first)
    there = open_remote(url)
    assert there.read(CARD, there.head(), limit=99) == b"theirs"
    assert sorted(there.listing(there.head())) == [CARD, MANIFEST]


def test_the_later_publication_keeps_its_files(bucket: Bucket, url: str) -> None:
    """It lands and writes its card while the earlier one is about to write its own."""
    there = open_remote(url)

    def other() -> None:
        open_remote(url).publish(Change("later", {MANIFEST: b"[2]", CARD: b"later"}), parent=open_remote(url).head())

    bucket.faults.add(Fault(f"PUT .*{CARD}", "status", then=other))
    there.publish(Change("earlier", {MANIFEST: b"[1]", CARD: b"earlier"}), parent=None)
    assert there.read(CARD, there.head(), limit=99) == b"later"
    assert sorted(there.listing(there.head())) == [CARD, MANIFEST]


class _KilledError(BaseException):
    pass


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_push_is_completed_by_the_next(place: World, bucket: Bucket, url: str, every: int) -> None:
    """Killed before each request that changes something: who reads gets the old history or the new one, whole."""
    import obstore

    with Repository.open(place.work) as repository:
        push(repository)
        left = -1
        real = {name: getattr(obstore, name) for name in ("put", "delete")}

        def killing(name: str) -> object:
            def call(*args: object, **named: object) -> object:
                nonlocal left
                left -= 1
                if left == -1:
                    raise _KilledError
                return real[name](*args, **named)

            return call

        for number in range(0, 99, every):
            before, after = repository.head().commit, edited(repository, number).id
            with pytest.MonkeyPatch.context() as patch:
                for name in real:
                    patch.setattr(obstore, name, killing(name))
                left = number
                try:
                    push(repository)
                except _KilledError:
                    done = False
                else:
                    done = True
            with Repository.open(place.empty) as reader:
                pull(reader)
                assert reader.head().commit in (before, after)
                push(repository)
                pull(reader)
                assert reader.head().commit == after
            there = open_remote(url)
            listing = there.listing(None)
            assert {MANIFEST, CARD, *ADAPTER} <= listing.keys()
            assert not [path for path in listing if path.startswith(".")]
            assert after[:10].encode() in there.read(CARD, there.head(), limit=1 << 20)
            if done:
                break
        assert done
        assert number > 5
    with Repository.open(place.empty) as reader:
        assert fsck(reader) == ([], 0)


def test_a_push_sends_what_it_sends_to_a_directory(place: World, bucket: Bucket, tmp_path: Path) -> None:
    with Repository.open(place.work) as repository:
        add_remote(repository, "disk", str(tmp_path / "disk"), directory=tmp_path)
        there, disk = push(repository, "origin"), push(repository, "disk")
        card = {CARD}  # it names the address
        assert {p: n for p, n in there.files.items() if p not in card} == {
            p: n for p, n in disk.files.items() if p not in card
        }
        listing = open_remote(there.url).listing(None)
        assert listing.keys() == disk.files.keys()


def test_another_base_description_is_not_written_over(bucket: Bucket, url: str) -> None:
    """Two first pushes at once: the loser may not leave its own hyperparameters there."""
    there = open_remote(url)
    there.publish(Change("one", {MANIFEST: b"{}", HPARAMS: b"a: 1\n"}), parent=None)
    with pytest.raises(RemoteError, match=r"another hparams\.yaml"):
        there.publish(Change("two", {MANIFEST: b"[]", HPARAMS: b"a: 2\n"}), parent=there.head())
    assert there.read(HPARAMS, there.head(), limit=99) == b"a: 1\n"


def test_large_objects_come_and_go_in_parts(bucket: Bucket, url: str, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 50_000)
    there = open_remote(url)
    made = there.publish(Change("one", {MANIFEST: b"{}", "objects/ab/cd": large}), parent=None)
    bucket.requests.clear()
    assert there.holds("objects/ab/cd", made, large)
    assert not [request for request in bucket.requests if request.startswith("GET")]
    there.fetch("objects/ab/cd", made, tmp_path / "back", limit=1 << 30)
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


def test_a_bucket_that_is_not_there(bucket: Bucket) -> None:
    with pytest.raises(RemoteError, match="no such bucket") as caught:
        open_remote("s3://nobody/x").publish(Change("one", {MANIFEST: b"{}"}), parent=None)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("status", "said"), [(403, "is not allowed"), (401, "is not allowed"), (412, "changed"), (400, "400")]
)
def test_no_answer_and_no_key_is_repeated(
    place: World, bucket: Bucket, status: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A cloud's error names the key and what was signed with it."""
    body = f"<Error><Code>Refused</Code><AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId>{SECRET_KEY}</Error>".encode()
    bucket.faults.add(Fault(f"PUT .*{MANIFEST}", "status", status=status, body=body, times=99))
    with Repository.open(place.work) as repository:
        with pytest.raises(MemitVCError, match=said) as caught:
            push(repository)
        told = f"{caught.value} {caught.value.message} {caught.value.hint} {caplog.text}"
        kept = (place.work / ".memitvc" / "config.toml").read_text()
    for secret in (ACCESS_KEY, SECRET_KEY):
        assert secret not in told + kept
        for path in place.work.rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes()


def test_addresses(tmp_path: Path) -> None:
    for given, kept in {
        "s3://bucket": "s3://bucket",
        "s3://bucket/": "s3://bucket",
        "s3://bucket/a/b-c_d/": "s3://bucket/a/b-c_d",
        "gs://bucket/a": "gs://bucket/a",
        "az://container/a": "az://container/a",
    }.items():
        assert checked_url(given, directory=tmp_path) == kept
    for wrong in (
        "s3://",
        "s3://b",
        "s3://user:hidden@bucket/x",
        "s3://hidden@bucket/x",
        "az://container/x?sv=2020&sig=hidden",
        "s3://bucket/a/../hidden",
        "s3://bucket/a/./hidden",
        "s3://bucket//hidden",
        "s3://bucket/a b/hidden",
        "s3://bucket:9000/hidden",
    ):
        with pytest.raises(UsageError) as caught:
            checked_url(wrong, directory=tmp_path)
        assert "hidden" not in f"{caught.value.message} {caught.value.hint}"
    with pytest.raises(UsageError, match="is in a bucket"):
        open_remote("s3://bucket/x", PushOptions(create_pr=True))


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
@pytest.mark.parametrize("address", ["localhost:9000", "not an address", "http://", "http://[::1", "http://a/b c"])
def test_an_endpoint_that_is_none(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, name: str, address: str) -> None:
    monkeypatch.setenv(name, address)
    with pytest.raises(UsageError, match=f"^{name} is not the address of a server"):
        BucketRemote(f"s3://{bucket.name}/x").head()


def test_a_setting_on_which_the_client_panics(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:99999")
    with pytest.raises(RemoteError, match="does not understand a setting"):
        BucketRemote(f"s3://{bucket.name}/x").head()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(RemoteError, match="needs the package obstore") as caught:
        open_remote("s3://bucket/x").head()
    assert "memit-vc[s3]" in str(caught.value.hint)


def test_a_slow_delete_that_hits_a_later_publication_is_told_to_the_next(
    bucket: Bucket, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later push is whole before the earlier one deletes the adapter's config, which is then the later one's."""
    files = dict.fromkeys(ADAPTER, b"{}")
    there = BucketRemote(url)
    delete, late = BucketRemote._delete, list[str]()

    def slow(self: BucketRemote, path: str) -> None:
        if self is there and path == ADAPTER[0] and not late:
            parent = open_remote(url).head()
            late.append(open_remote(url).publish(Change("later", {MANIFEST: b"[2]", **files}), parent=parent))
        delete(self, path)

    monkeypatch.setattr(BucketRemote, "_delete", slow)
    there.publish(Change("earlier", {MANIFEST: b"[1]", **files}), parent=None)
    assert ADAPTER[0] not in there.listing(late[0])
    assert unfinished_path(late[0]) in there.listing(late[0])
