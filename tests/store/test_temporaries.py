"""What nobody holds is rubbish, whoever left it; what somebody holds is not, wherever they are."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memit_vc.errors import UsageError
from memit_vc.store import temporaries
from memit_vc.store.files import new_directory, replacing, write_atomic
from memit_vc.store.temporaries import clear_abandoned, remove_temporary, stale_temporaries, temporary_directory

_HOLDER = """
import sys, time
from pathlib import Path
from memit_vc.store.temporaries import open_temporary, temporary_directory
target = Path(sys.argv[1])
file, descriptor = open_temporary(target, 0o444)
with temporary_directory(target) as place:
    (place / "half").write_bytes(b"12345")
    print(file, place, sep="\\n", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(target: Path, *launcher: str) -> Iterator[tuple[subprocess.Popen[str], Path, Path]]:
    """A process that writes a temporary file and directory for `target`; it is killed at the end."""
    command = [*launcher, sys.executable, "-c", _HOLDER, str(target)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        yield running, Path(running.stdout.readline().strip()), Path(running.stdout.readline().strip())
    finally:
        running.kill()
        running.communicate()


def test_what_dead_writers_left_is_found_and_removed(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "x"
    target.parent.mkdir()
    with holder(target) as (running, file, place):
        assert (file.exists(), (place / "half").exists()) == (True, True)
        assert stale_temporaries(tmp_path, 0) == []
        clear_abandoned(target)
        remove_temporary(place)
        assert (file.exists(), (place / "half").exists()) == (True, True)
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert stale_temporaries(tmp_path, 60) == []
        assert stale_temporaries(tmp_path, 0) == sorted([(file, 0), (place, 5)])
        (target.parent / "other.tmp-0123456789ab").touch()
        clear_abandoned(target)
    assert [path.name for path in target.parent.iterdir()] == ["other.tmp-0123456789ab"]


def test_a_writer_in_another_container_is_alive(tmp_path: Path) -> None:
    """Its number means nothing here, and that of a live process here may be the number of a dead one there."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-pf", "true"], check=False).returncode:
        pytest.skip("no process namespaces here")
    with holder(tmp_path / "x", "unshare", "-pf", "--kill-child") as (_, file, place):
        clear_abandoned(tmp_path / "x")
        assert stale_temporaries(tmp_path, 0) == []
        assert (file.exists(), place.exists()) == (True, True)


def test_a_name_taken_for_rubbish_before_it_is_locked_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment between making a file and locking it, seen from a gc without grace."""
    lock, hurried = temporaries.fcntl.flock, 0

    def late(descriptor: int, kind: int) -> None:
        nonlocal hurried
        if kind == temporaries.fcntl.LOCK_EX and hurried < 4:
            hurried += 1
            for path in tmp_path.iterdir():
                remove_temporary(path)
        lock(descriptor, kind)

    monkeypatch.setattr(temporaries.fcntl, "flock", late)
    write_atomic(tmp_path / "a", b"whole")
    with new_directory(tmp_path / "b") as made:
        (made / "file").write_bytes(b"whole")
    assert hurried == 4
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "file"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b" / "file").read_bytes() == b"whole"


def test_without_locks_nothing_is_taken_for_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(temporaries.fcntl, "flock", refuse)
    with temporary_directory(tmp_path / "x") as place:
        assert stale_temporaries(tmp_path, 0) == []
        clear_abandoned(tmp_path / "x")
        write_atomic(place / "y", b"1")
        assert place.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("umask", "plain", "fixed"), [(0o002, 0o664, 0o444), (0o022, 0o644, 0o444), (0o077, 0o600, 0o400)]
)
def test_modes_follow_the_umask(tmp_path: Path, umask: int, plain: int, fixed: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "plain", b"1")
        write_atomic(tmp_path / "plain", b"2")
        write_atomic(tmp_path / "fixed", b"1", mode=0o444)
        with replacing(tmp_path / "library") as path:
            path.unlink()
            os.close(os.open(path, os.O_CREAT, 0o600))  # as safetensors does
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert found == {"plain": plain, "fixed": fixed, "library": plain}


def test_a_directory_that_another_command_made_meanwhile_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def make() -> None:
        with new_directory(out) as made:
            (made / "ours").write_text("x")
            (out / "theirs").write_text("y")

    with pytest.raises(UsageError, match="another command has written there"):
        make()
    assert [path.name for path in out.iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "x" * 238])
def test_the_longest_name_that_a_file_may_have(tmp_path: Path, name: str) -> None:
    write_atomic(tmp_path / name, b"whole")
    assert (tmp_path / name).read_bytes() == b"whole"
    (tmp_path / name).unlink()
    with holder(tmp_path / name) as (running, file, place):
        assert len(os.fsencode(place.name)) <= 255
        running.kill()
        running.wait()
        clear_abandoned(tmp_path / name)
        assert not file.exists()
        assert not place.exists()
    with new_directory(tmp_path / name) as place:
        (place / "file").write_bytes(b"whole")
    assert (tmp_path / name / "file").read_bytes() == b"whole"
