"""tests/ mirrors memit_vc/: from a module's path one knows its test's path (tests/README.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.paths import ROOT

TESTS = ROOT / "tests"
APART = {"project", "support"}


def folders(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.is_dir() and any(path.glob("*.py"))}


@pytest.mark.parametrize("part", ["", "porcelain", "numerics"])
def test_each_folder_is_a_room_of_the_package(part: str) -> None:
    found = folders(TESTS / part) - (set() if part else APART)
    assert found
    assert found <= folders(ROOT / "memit_vc" / part)


def test_helpers_and_tests_are_apart() -> None:
    assert [path.name for path in TESTS.glob("test_*.py")] == []
    assert [path.name for path in (TESTS / "support").rglob("test_*.py")] == []
