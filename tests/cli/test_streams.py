"""Closed and broken streams, signals, directories that are gone: nothing is done without a word, and nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from memit_vc.repository import Repository
from tests.support.places import Place
from tests.support.synthetic import fact, init, record


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A repository without a model, with three commits."""
    with init(tmp_path / "work") as repository:
        for number in range(3):
            record(repository, [fact(number)], message=f"commit {number}")
    return tmp_path / "work"


def shell(line: str, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which `memitvc` is the program and $1, $2 … are `arguments`; the exit code is its first's."""
    script = f'memitvc() {{ "{sys.executable}" -m memit_vc "$@"; }}; {line}; exit "${{PIPESTATUS[0]}}"'
    command = ["bash", "-c", script, "bash", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def commits(work: Path) -> int:
    with Repository.open(work) as repository:
        assert repository.fsck() == []
        return len(repository.log([repository.head().commit]))


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("memitvc -C $1 revert HEAD >&-", 0, ""),
        ("memitvc -C $1 revert HEAD >&- 2>&- <&-", 0, ""),
        ("memitvc -C $1 revert HEAD | true", 141, ""),
        ("memitvc -C $1 revert HEAD 2>&1 >$1/out | true", 0, ""),
        ("memitvc -C $1 revert HEAD > /dev/full", 1, "error: the result could not be written to standard output"),
    ],
)
def test_what_was_done_stands_and_is_not_called_a_failure(work: Path, line: str, code: int, said: str) -> None:
    ran = shell(line, work)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert ran.stderr.startswith(said) if said else ran.stderr == ""
    assert ("what was done stands" in ran.stderr) == bool(said)
    assert commits(work) == 5


@pytest.mark.parametrize("encoding", ["iso-8859-2", "latin-1", "koi8-r", "utf-8"])
def test_what_a_stream_cannot_hold_is_escaped(tmp_path: Path, encoding: str) -> None:
    """And JSON stays JSON, and CSV is UTF-8 for `commit` to read."""
    told = replace(fact(1), subject="Ñandú \U0001f600", prompt="Ñandú \U0001f600 is in")
    with init(tmp_path / "work") as repository:
        record(repository, [told], message="señor")

    def out(*arguments: str) -> bytes:
        command = [sys.executable, "-m", "memit_vc", *arguments, "-C", str(tmp_path / "work")]
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        return subprocess.run(command, capture_output=True, check=True, env=environment).stdout

    assert out("log").decode(encoding)
    assert out("facts").decode(encoding)
    (listed,) = json.loads(out("facts", "--json").decode(encoding))
    assert listed["subject"] == told.subject
    assert "Ñandú \U0001f600" in out("facts", "--csv").decode("utf-8")
    assert b"]" in out("commit", "--amend", "-m", "niño")
    assert json.loads(out("log", "--json").decode(encoding))[0]["message"] == "niño"


@pytest.mark.parametrize(("line", "code"), [("| true", 141), ("> /dev/full", 1)])
def test_json_says_that_the_operation_stands(work: Path, line: str, code: int) -> None:
    ran = shell(f"memitvc -C $1 revert HEAD --json {line}", work)
    told = json.loads(ran.stderr)["error"]
    assert ran.returncode == told["exit_code"] == code
    assert "what was done stands" in told["message"]
    assert commits(work) == 5


def test_a_file_that_is_opened_next_is_not_taken_for_a_stream(work: Path, tmp_path: Path) -> None:
    """With stream 2 closed, the next file has the number 2, and a library's warning would go into it."""
    code = (
        "import os, sys; from memit_vc.cli.streams import open_streams; open_streams();"
        "print(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)); os.write(2, b'warning'); sys.stderr.write('x')"
    )
    ran = shell(f'"{sys.executable}" -c "$1" $2 2>&- <&-', code, tmp_path / "file")
    assert int(ran.stdout) > 2
    assert (tmp_path / "file").read_bytes() == b""


def test_only_a_dash_needs_standard_input(work: Path) -> None:
    ran = shell("memitvc -C $1 commit - <&-", work)
    assert (ran.returncode, ran.stderr.splitlines()[0]) == (1, "error: standard input: is empty")
    ran = shell("memitvc -C $1 commit - 0>$1/x", work)
    assert (ran.returncode, ran.stderr.startswith("error: standard input: cannot be read")) == (1, True)
    ran = shell("memitvc -C $1 commit nosuch.json <&-", work)
    assert (ran.returncode, ran.stderr.splitlines()[0]) == (1, "error: nosuch.json: no such file")


def test_a_stream_that_cannot_say_it_gets_it_spelled_out(work: Path) -> None:
    with Repository.open(work) as repository:
        record(repository, [fact(7)], message="→ Δ\x07")
    for encoding, said in (("ascii", r"→ Δ\x07"), ("latin-1", r"\u2192 \u0394\x07")):
        ran = shell(f"PYTHONIOENCODING={encoding} memitvc -C $1 log --oneline | cat", work)
        assert ran.stdout.splitlines()[0].split(") ")[1].split("  ")[0] == said


def test_a_working_directory_that_is_gone(work: Path, tmp_path: Path) -> None:
    gone = "mkdir $2; cd $2; rmdir $2; memitvc"
    ran = shell(f"{gone} -C $1 log --oneline | cat", work, tmp_path / "gone")
    assert len(ran.stdout.splitlines()) == 4
    for arguments in ("log", "-C elsewhere log"):
        ran = shell(f"{gone} {arguments}", work, tmp_path / "gone")
        assert ran.returncode == 2
        assert "error: the current directory is gone\nhint: Change to one that exists" in ran.stderr


_WAITING = """
import signal, sys, time
from pathlib import Path
from memit_vc.cli import main
from memit_vc.store import files
# the tests themselves may run where SIGHUP is ignored
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1] == "ignored" else signal.SIG_DFL)
publish = files.publish_directory
def slow(made, target):
    print("ready", flush=True)
    time.sleep(1 if sys.argv[1] == "ignored" else 60)
    publish(made, target)
files.publish_directory = slow
sys.exit(main(sys.argv[2:]))
"""


def stopped(number: int, how: str, arguments: Sequence[str | Path]) -> tuple[int, str]:
    command = [sys.executable, "-c", _WAITING, how, *map(str, arguments)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    return running.returncode, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_command_leaves_nothing(place: Place, tmp_path: Path, number: signal.Signals) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    code, err = stopped(number, "", ["-C", place.work, "export", "--adapter", tmp_path / "out"])
    assert code == 128 + number
    assert (
        err.strip() == f"stopped by {number.name}: either everything was done or nothing; check with `memitvc op log`"
    )
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_signal_that_the_caller_ignores_is_ignored(place: Place, tmp_path: Path) -> None:
    code, _ = stopped(signal.SIGHUP, "ignored", ["-C", place.work, "export", "--adapter", tmp_path / "out"])
    assert code == 0
    assert (tmp_path / "out" / "adapter_config.json").is_file()


def test_control_c_before_the_command_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "memit_vc", "log"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (ran.returncode, ran.stderr) == (130, "interrupted before anything was done\n")
