"""One tiny base for all tests of the algebra, a fresh repository on it for each; a folder's conftest imports both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memit_vc.numerics.exact.patchfile import check_patch
from memit_vc.repository import Repository
from tests.support.algebra.world import World

__all__ = ["repository", "world"]


@pytest.fixture
def world(algebra_world: World) -> World:
    return algebra_world


@pytest.fixture
def repository(world: World, tmp_path: Path) -> Iterator[Repository]:
    with world.copy(tmp_path / "work") as opened:
        yield opened
        assert opened.fsck(check_patch=check_patch) == []
