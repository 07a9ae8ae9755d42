"""Commands that check, measure or move columns load no torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import test_lazy
from tests.support.opened import Opened


def test_columns_are_checked_measured_and_moved_without_torch(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ["-C", str(opened("gpt2").directory)]
    monkeypatch.setattr(test_lazy, "HEAVY", ("torch", "transformers"))
    commands = [
        ["fsck"],
        ["fsck", "--quick"],
        ["diff", "--weights", "HEAD~1", "HEAD"],
        ["export", "--adapter", str(tmp_path / "adapter")],
        ["export", "--patch", str(tmp_path / "patch")],
        ["squash", "HEAD~2..HEAD"],
        ["squash", "--compress", "0.5"],
    ]
    assert test_lazy.offenders([[*command, *where] for command in commands]) == {}
