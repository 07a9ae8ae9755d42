"""What a remote may cost: memory and disk are bounded by what a history can hold, before anything is believed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from memit_vc.concurrency import ordered_map
from memit_vc.errors import IntegrityError, RemoteError
from memit_vc.foreign.data import MOST_VALUES, json_value
from memit_vc.objects import BlobId
from memit_vc.porcelain.sharing import incoming as remote_objects
from memit_vc.porcelain.sharing.fetch import fetch
from memit_vc.porcelain.sharing.incoming import Incoming
from memit_vc.porcelain.sharing.remote_history import Published
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.remote.directory import DirectoryRemote
from memit_vc.remote.manifest import RemoteManifest, commit_path, object_path
from memit_vc.repository import Repository
from tests.porcelain.sharing.test_hostile import refused
from tests.support.forge import Forge
from tests.support.remotes import World, edited

FETCH = """
import re, sys
from memit_vc.cli import main
code = main(["fetch", "-C", sys.argv[1]])
print(code, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
HEX = "%064x"


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak memory from /proc")
def test_records_that_nothing_reaches_take_no_memory(world: World) -> None:
    """A megabyte of empty objects takes twenty-five in memory."""
    forge = Forge(world.shared)
    for number in range(12):
        forge.write(commit_path(HEX % number), b'{"a":[' + b",".join([b"{}"] * 1_000_000) + b"]}")
    forge.publish(lambda manifest: manifest["refs"].update({"heads/main": HEX % 99}))
    done = subprocess.run(
        [sys.executable, "-c", FETCH, str(world.work)], capture_output=True, text=True, check=True, timeout=300
    )
    code, peak = done.stdout.split()
    assert (code, "lacks commit" in done.stderr) == ("12", True)
    assert int(peak) < 400_000


def test_more_values_than_anybody_writes() -> None:
    assert json_value(b'{"a": [1, 2]}') == {"a": [1, 2]}
    with pytest.raises(ValueError, match="values"):
        json_value(b"[" + b"[]," * MOST_VALUES + b"[]]")


def test_records_that_are_too_large_together(world: World) -> None:
    forge = Forge(world.shared)
    for number in range(20):
        path = world.shared / commit_path(HEX % number)
        path.write_bytes(b"")
        with path.open("r+b") as file:
            file.truncate(1 << 26)
    forge.publish(lambda manifest: manifest["refs"].update({"heads/main": HEX % 99}))
    refused(world, "lists commits of")


def test_provenance_is_small(world: World) -> None:
    forge = Forge(world.shared)
    forge.edit(lambda record: record["commit"].update(provenance=forge.put(b'{"a":"' + b"x" * (17 << 20) + b'"}')))
    refused(world, "bytes, at most")


def test_a_patch_and_constraints_are_as_large_as_the_base_allows(world: World) -> None:
    forge = Forge(world.shared)
    forge.with_patch(forge.patch()[1] + bytes(64 << 20))
    refused(world, "bytes, at most")


def test_few_results_are_made_ahead() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def call(number: int) -> int:
        with lock:
            begun.append(number)
        return number

    results = ordered_map(call, range(1000), workers=4)
    assert next(results) == 0
    assert len(begun) <= 5
    assert list(results) == list(range(1, 1000))


def opened(world: World, repository: Repository) -> tuple[Published, BlobId]:
    """The remote, and an object of it that is not here."""
    remote = DirectoryRemote(world.shared)
    revision = remote.head()
    assert revision is not None
    manifest = RemoteManifest.decode(remote.read("memitvc.json", revision, limit=1 << 20), remote.url)
    return Published(remote, revision, manifest, remote.listing(revision)), BlobId(Forge(world.shared).patch()[0])


def test_an_object_that_the_disk_spoils_is_not_stored(world: World) -> None:
    with Repository.open(world.empty) as repository, Incoming(repository.root, repository.blobs) as incoming:
        found, blob = opened(world, repository)
        incoming.fetch(found, {blob: None})
        (incoming.directory / blob).write_bytes(b"other bytes")
        with pytest.raises(IntegrityError, match="damaged on this disk"):
            incoming.store({blob})
        assert not repository.blobs.has(blob)
        incoming.fetch(found, {blob: None})
        incoming.store({blob})
        assert repository.blobs.verify(blob)
        incoming.clear()
        repository.blobs.remove(blob)
        assert list(repository.orphans()) == []


def test_an_object_needs_its_bytes_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with Repository.open(world.empty) as repository, Incoming(repository.root, repository.blobs) as incoming:
        found, blob = opened(world, repository)
        size = found.listing[object_path(blob)].size
        usage = namedtuple("usage", "free")
        monkeypatch.setattr(remote_objects.shutil, "disk_usage", lambda _: usage(2 * size - 1))
        with pytest.raises(RemoteError, match="are free here"):
            incoming.fetch(found, {blob: None})
        monkeypatch.setattr(remote_objects.shutil, "disk_usage", lambda _: usage(2 * size))
        incoming.fetch(found, {blob: None})
        incoming.clear()


def test_a_history_of_many_columns_a_fact_is_taken(world: World) -> None:
    """The bounds let through what commands make: the same fact edited many times, then squashed."""
    from memit_vc.porcelain.sets.squash import squash
    from memit_vc.porcelain.sharing.push import push
    from tests.support.histories import record
    from tests.support.models import FACTS

    with Repository.open(world.work) as repository:
        start = repository.head().commit
        for seed in range(6):
            record(repository, FACTS[:1], (1, 2), message="again", seed=50 + seed)
        squash(repository, f"{start}..HEAD", message="one")
        edited(repository, 3)
        push(repository)
    with Repository.open(world.empty) as repository:
        fetch(repository)
        assert fsck(repository) == ([], 0)
