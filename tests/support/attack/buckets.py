"""Pushes to a bucket and pulls from it, killed at any of their requests: an S3 server on loopback (moto's)."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from memit_vc.porcelain.sharing.pull import pull
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.sharing.remotes import add_remote, remove_remote
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.attack.report import Found
from tests.support.bucket import Bucket, served
from tests.support.remotes import World, edited

__all__ = ["kill_transfers"]

FRESH = 25
"""Kills until the history starts again, so that it stays short."""


def kill_transfers(place: Path, numbers: range, seed: str, found: Found, patience: float) -> None:
    """So many kills, two pushes to a pull. A command that takes longer than `patience` seconds hangs."""
    clean = World.make(place / "bucket-of")
    with served() as bucket:
        before = {name: os.environ.get(name) for name in bucket.environment}
        os.environ.update(bucket.environment)
        try:
            for number in numbers:
                if number % FRESH == 0 or number == numbers.start:
                    pair = _Pair(clean, place, bucket, found, patience, number)
                with found.at(f"bucket kill {number}"):
                    pair.strike(number, random.Random(f"{seed} bucket {number}"))
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


class _Pair:
    """Somebody who pushes and somebody who pulls, by one address in the bucket."""

    def __init__(self, clean: World, place: Path, bucket: Bucket, found: Found, patience: float, number: int) -> None:
        self.bucket, self.found, self.patience = bucket, found, patience
        self.writer, self.reader = place / "pushes", place / "pulls"
        for source, copy in ((clean.work, self.writer), (clean.empty, self.reader)):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(source, copy)
            with Repository.open(copy) as repository:
                remove_remote(repository, "origin")
                add_remote(repository, "origin", f"s3://{bucket.name}/{number}", directory=copy)
        with Repository.open(self.writer) as repository:
            push(repository)
        with Repository.open(self.reader) as repository:
            pull(repository)
        self.requests = {"push": 12, "pull": 8}
        """Of the longest whole run of each verb."""

    def strike(self, number: int, chance: random.Random) -> None:
        verb = "pull" if number % 3 == 2 else "push"
        with Repository.open(self.writer) as repository:
            before, after = repository.head().commit, edited(repository, number).id
            if verb == "pull":
                push(repository)
        code = self.run(verb, kill_at=chance.randrange(self.requests[verb] + 1))
        self.found.count(f"{verb} killed" if code else f"{verb} finished before")
        assert code in (0, -signal.SIGKILL), f"{verb}: failed by itself: {code}"
        if verb == "push":
            with Repository.open(self.reader) as repository:
                pull(repository)
                then = repository.head().commit
        else:
            with Repository.open(self.reader) as repository:
                then = repository.head().commit
        assert then in (before, after), f"{verb}: the reader has {then}"
        self.found.count("old" if then == before else "new")
        code = self.run(verb)
        assert code == 0, f"{verb}: cannot be run again: {code}"
        with Repository.open(self.reader) as repository:
            pull(repository)
            assert repository.head().commit == after
            assert fsck(repository) == ([], 0)
        with Repository.open(self.writer) as repository:
            assert fsck(repository) == ([], 0)

    def run(self, verb: str, *, kill_at: int | None = None) -> int:
        """The exit code; killed as soon as the server has heard so many requests of it."""
        directory = self.writer if verb == "push" else self.reader
        first, start = len(self.bucket.requests), time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", "memit_vc", verb, "-C", str(directory)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while child.poll() is None:
            if kill_at is not None and len(self.bucket.requests) - first >= kill_at:
                child.kill()
            if time.monotonic() - start > self.patience:
                child.kill()
                child.wait()
                self.found.fault(f"{verb}: hangs")
            time.sleep(0.001)
        said = child.communicate()[1]
        self.found.took(time.monotonic() - start, verb)
        if "Traceback (most recent call last)" in said:
            self.found.fault(f"{verb}: {said}")
        if kill_at is None:
            self.requests[verb] = max(self.requests[verb], len(self.bucket.requests) - first)
        return child.returncode
