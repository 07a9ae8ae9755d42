"""A repository in the making: who comes when it is finished is told, and leaves nothing beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from memit_vc.errors import LockedError, MemitVCError
from memit_vc.store.staging import Staging, check_free, staging
from tests.support.synthetic import init

_NAME, _HINT = ".memitvc-clone", "Name another one."


def _begin(place: Path) -> Staging:
    """What a command makes that was killed, or another one that is at work."""
    with staging(place, _NAME, doing="cloning to", hint=_HINT) as made:
        init(made.at).close()
    return made


def test_the_place_is_looked_at_again_under_the_lock(tmp_path: Path) -> None:
    check_free(tmp_path, _NAME, hint=_HINT)
    _begin(tmp_path).finish()  # another command
    with (
        pytest.raises(MemitVCError, match="exists already") as caught,
        staging(tmp_path, _NAME, doing="cloning to", hint=_HINT),
    ):
        raise AssertionError("the place is taken")
    assert caught.value.hint == _HINT
    assert [path.name for path in tmp_path.iterdir()] == [".memitvc"]


def test_what_an_earlier_try_left_stays_when_the_place_is_taken(tmp_path: Path) -> None:
    made = _begin(tmp_path)
    (tmp_path / "notes").touch()
    with (
        pytest.raises(MemitVCError, match="is not empty"),
        staging(tmp_path, _NAME, doing="cloning to", hint=_HINT),
    ):
        raise AssertionError("the place is taken")
    assert made.root.is_dir()


def test_a_place_that_init_took_meanwhile_is_said_to_be_taken(tmp_path: Path) -> None:
    made = _begin(tmp_path)
    init(tmp_path).close()
    with pytest.raises(MemitVCError, match="exists already"):
        made.finish()


def test_a_directory_that_goes_while_it_is_locked_is_another_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    take = fcntl.flock

    def late(descriptor: int, kind: int) -> None:
        (tmp_path / _NAME).rmdir()  # the other command fails, and lets the lock go
        take(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    with (
        pytest.raises(LockedError, match="another command is cloning to"),
        staging(tmp_path, _NAME, doing="cloning to", hint=_HINT),
    ):
        raise AssertionError("nobody sees what would be made here")
