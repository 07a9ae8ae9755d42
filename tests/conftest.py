"""Hypothesis profiles, and repositories that must be whole when a test is done with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from memit_vc.repository import Repository
from tests import synthetic

_QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("default", max_examples=200, deadline=None, suppress_health_check=_QUIET)
settings.register_profile("nightly", max_examples=10_000, deadline=None, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path) -> Iterator[None]:
    """What tests, and the commands that they start, keep for their user is nobody's concern."""
    with pytest.MonkeyPatch.context() as patch:  # its own: the fixture's is to be undone before other fixtures are
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
        yield


@pytest.fixture
def plain_repository(tmp_path: Path) -> Iterator[Repository]:
    """A new repository with synthetic weights (see tests.synthetic); fsck must find nothing at the end."""
    with synthetic.init(tmp_path / "work") as repository:
        yield repository
        assert repository.fsck() == []
