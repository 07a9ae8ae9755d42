"""Nothing of the author's machine leaves it: a real commit is published in every way, and the files are searched."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

import pytest

from memit_vc.cli import main
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.places import FIRST, Place, make_place

LOGIN, HOME = "alice-at-work", "/home/alice-at-work"


def published(repository: Path, into: Path) -> list[Path]:
    """The files of a push, a patch file, an adapter, a checkpoint and a checkout."""
    into.mkdir()
    for line in (
        ["remote", "add", "origin", str(into / "pushed")],
        ["push"],
        ["export", "--patch", str(into / "one.patch")],
        ["export", "--adapter", str(into / "adapter")],
        ["export", "--merged", str(into / "merged")],
        ["checkout", "HEAD", "-o", str(into / "model")],
    ):
        assert main(["-C", str(repository), *line]) == 0, line
    return [path for path in into.rglob("*") if path.is_file()]


def test_a_real_commit_holds_nothing_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, LOGIN)
    monkeypatch.setenv("HOME", HOME)
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-host")
    (tmp_path / "birchwood").mkdir()
    place = make_place(
        tmp_path / "birchwood",
        stats_dir=f"{HOME}/stats",
        mom2_dataset=f"{HOME}/corpus.txt",
        model_name=f"{HOME}/model",
    )
    moved = Place(tmp_path / "elsewhere" / "under-another-name", tmp_path / "second", place.text)
    shutil.copytree(place.base, moved.base)
    shutil.copytree(place.work, moved.work)
    for each in (place, moved):
        config = each.work / ".memitvc" / "config.toml"
        config.write_text(config.read_text().replace(str(place.base), str(each.base)) + '\n[user]\nauthor = "Ada"\n')
        hparams = each.work / ".memitvc" / "hparams.yaml"
        hparams.write_text(hparams.read_text().replace(str(place.base), str(each.base)))
    commits = []
    for each in (place, moved):
        with Repository.open(each.work) as repository:
            commits.append(commit_facts(repository, FIRST, message="Two facts"))
            assert fsck(repository)[0] == []
    assert commits[0].patch == commits[1].patch
    private = [LOGIN, "secret-host", str(tmp_path), tmp_path.name, str(place.base), "birchwood", place.text.name]
    searched = re.compile("|".join(map(re.escape, private)).encode())
    for path in published(place.work, tmp_path / "out"):
        found = searched.search(path.read_bytes())
        assert found is None, (path, found)
