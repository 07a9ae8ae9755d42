"""One tiny base for all tests of the algebra, and a fresh repository on it for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memit_vc.numerics.exact.patchfile import check_patch
from memit_vc.repository import Repository
from tests.algebra.world import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("world"))


@pytest.fixture
def repository(world: World, tmp_path: Path) -> Iterator[Repository]:
    with world.copy(tmp_path / "work") as opened:
        yield opened
        assert opened.fsck(check_patch=check_patch) == []
