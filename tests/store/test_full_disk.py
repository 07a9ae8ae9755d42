"""Reading needs no writing: disks that are read-only, or have no bytes or no inodes left, in a mount of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from memit_vc.repository import Repository
from memit_vc.store.database import Database
from tests.support.synthetic import fact, init, record

_CHILD = """
import json, os, sys
from pathlib import Path
from memit_vc.errors import MemitVCError
from memit_vc.objects import RefUpdate
from memit_vc.porcelain.upkeep.gc import collect_garbage
from memit_vc.repository import Repository
disk, way = Path(sys.argv[1]), sys.argv[2]
if way == "space":
    with (disk / "fill").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
if way == "inodes":
    try:
        for number in range(10_000):
            (disk / f"fill-{number}").touch()
    except OSError:
        pass
told = {}
with Repository.open(disk / "work") as repository:
    head = repository.head()
    told["facts"] = len(repository.live_facts(head.commit))
    told["problems"] = [each.text for each in repository.fsck()]
    repository.put_evaluation(repository.state_id(()), None, "k", "k", 1)
    told["kept"] = len(repository.evaluations(repository.state_id(()), "k"))
    try:
        repository.publish(verb="tag", description="x", refs=[RefUpdate("tags/x", None, head.commit)])
    except MemitVCError as error:
        told["refused"] = error.message
    try:
        told["freed"] = collect_garbage(repository, grace=0).blobs
    except MemitVCError as error:
        told["gc"] = error.message
    if "freed" in told:
        repository.publish(verb="tag", description="x", refs=[RefUpdate("tags/x", None, head.commit)])
print(json.dumps(told))
"""
_MOUNT = {
    "read-only": 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"',
    "space": 'cp -r "$1" "$1.copy" && mount -t tmpfs -o size=1m tmpfs "$1" && cp -r "$1.copy"/. "$1"',
    "inodes": 'cp -r "$1" "$1.copy" && mount -t tmpfs -o size=1m,nr_inodes=60 tmpfs "$1" && cp -r "$1.copy"/. "$1"',
}


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("read-only", "Read-only file system"),
        ("space", "No space left on device"),
        ("inodes", "No room for another file: the file system has no inodes left"),
    ],
)
def test_a_disk_that_takes_nothing_can_be_read(tmp_path: Path, way: str, reason: str) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("no mounts of one's own here")
    disk = tmp_path / "disk"
    with init(disk / "work") as repository:
        record(repository, [fact(1)])
        orphan = repository.blobs.put(bytes(150_000))
        for number in range(2):
            (repository.root / f"objects.tmp-00000000000{number}").touch()
    script = f'{_MOUNT[way]} && "$2" -c "$3" "$1" {way}'
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(disk), sys.executable, _CHILD]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["facts"], told["problems"], told["kept"]) == (1, [], 0)
    assert told["refused"].endswith(f"meta.db: {reason}")
    if way == "read-only":
        assert told["gc"].endswith(f"meta.db: {reason}")
    else:
        assert told["freed"] == 1
    with Repository.open(disk / "work") as repository:
        assert repository.fsck() == []
        assert repository.orphans() == [orphan]


def test_a_memory_does_not_wait_for_a_writer(plain_repository: Repository) -> None:
    state = plain_repository.state_id(())
    plain_repository.put_evaluation(state, None, "k", "before", 1)
    other = Database(plain_repository.root / "meta.db")
    with other.write():
        plain_repository.put_evaluation(state, None, "k", "during", 2)
    other.close()
    assert plain_repository.evaluations(state, "k") == {("k", "before"): 1}


def test_a_group_can_write_what_one_of_it_made(tmp_path: Path) -> None:
    script = (
        "import os, sys; os.umask(0o002); from pathlib import Path; from tests.support.synthetic import *;"
        "r = init(Path(sys.argv[1])); record(r, [fact(1)]); r.refs();"
        "print(*(f'{p.name} {p.stat().st_mode & 0o777:o}' for p in sorted(r.root.iterdir())), sep=chr(10))"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    modes = dict(line.split() for line in ran.stdout.splitlines())
    assert {name: mode for name, mode in modes.items() if mode not in ("664", "775")} == {}
    assert {"meta.db", "meta.db-wal", "meta.db-shm", "config.toml", "objects"} <= modes.keys()
    with Repository.open(tmp_path) as repository:
        assert repository.fsck() == []
