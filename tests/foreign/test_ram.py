"""How much memory is free."""

from __future__ import annotations

from pathlib import Path

import pytest

from memit_vc.foreign import ram


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("600000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    monkeypatch.setattr(ram, "_GROUP", tmp_path)
    assert ram.free_ram() == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert ram.free_ram() != 500_000
